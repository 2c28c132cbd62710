// vcsim: govmomi's simulator of vCenter and ESXi, with what Holdfast's tests need and it lacks: disks whose bytes are
// frozen by snapshots, changed-block tracking, consolidation, a guarded /folder, and faults on command.
//
// It serves the vSphere API on an address of its own and its controls (control.go) on a Unix socket, says so with one
// line on standard output, and ends when standard input does: nothing outlives the test that started it.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator" // tags
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the API")
	certificate := flag.String("certificate", "", "PEM file of the server's certificate")
	key := flag.String("key", "", "PEM file of its key")
	user := flag.String("user", "backup@vsphere.local", "who may log in")
	password := flag.String("password", "", "with this password")
	control := flag.String("control", "", "path of the socket for controls")
	esx := flag.Bool("esx", false, "be a single ESXi host instead of a vCenter")
	hosts := flag.Int("hosts", 2, "hosts of the vCenter's one cluster")
	datastores := flag.Int("datastores", 2, "how many datastores there are")
	flag.Parse()
	log.SetOutput(os.Stderr)

	model := newModel(*esx, *hosts, *datastores)
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	defer model.Remove()
	pair, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		log.Fatal(err)
	}
	service := model.Service
	service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	service.RegisterEndpoints = true

	lab := newLab(service)
	lab.guardFolder()
	server := service.NewServer()
	lab.serveControls(*control)
	_ = json.NewEncoder(os.Stdout).Encode(map[string]string{"address": server.Listener.Addr().String()})
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = os.Remove(*control)
}

func newModel(esx bool, hosts, datastores int) *simulator.Model {
	if esx {
		model := simulator.ESX()
		model.Machine, model.Datastore = 0, datastores
		return model
	}
	model := simulator.VPX()
	model.Host, model.ClusterHost, model.Machine, model.Datastore = 0, hosts, 0, datastores
	return model
}
