package main

import (
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// guardFolder puts before the simulator's /folder what a host asks for: a session, and that nobody else writes the
// file. Patterns with a method come before those without, which the simulator registers.
func (l *lab) guardFolder() {
	l.service.RegisterSDK(l.service.Context.Map, l.service.Context.Map.Path+"/vimService")
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost} {
		l.service.ServeMux.HandleFunc(method+" /folder/", l.serveFolder)
	}
}

func (l *lab) serveFolder(w http.ResponseWriter, r *http.Request) {
	l.requests.Add(1)
	if rule := l.faults.ofRequest(r.Method); rule != nil {
		time.Sleep(time.Duration(rule.DelayMS) * time.Millisecond)
		if rule.Status != 0 {
			http.Error(w, "on command", rule.Status)
			return
		}
	}
	if !l.admitted(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	name := (&object.DatastorePath{
		Datastore: r.URL.Query().Get("dsName"), Path: strings.TrimPrefix(r.URL.Path, "/folder/"),
	}).String()
	file := l.fileAt(name)
	if l.locked(file) {
		http.Error(w, "the file is locked", http.StatusInternalServerError)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead || !serveFile(w, r, file) {
		l.service.ServeDatastore(w, r)
	}
}

// serveFile serves a regular file. The simulator would ask itself for the datastore with half a dozen queries first.
func serveFile(w http.ResponseWriter, r *http.Request, name string) bool {
	file, err := os.Open(name)
	if err != nil {
		return false
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), file)
	return true
}

// admitted says whether the request has a session's cookie or the password.
func (l *lab) admitted(r *http.Request) bool {
	if user, password, ok := r.BasicAuth(); ok {
		known, _ := l.service.Listen.User.Password()
		return user == l.service.Listen.User.Username() && password == known
	}
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return false
	}
	for _, session := range l.sessions() {
		if session.Key == cookie.Value {
			return true
		}
	}
	return false
}

// sessions are those that are logged in.
func (l *lab) sessions() []types.UserSession {
	registry := l.service.Context.Map
	view := simulator.Session{Registry: simulator.NewRegistry(), Map: registry}
	return view.Get(registry.SessionManager().Self).(*simulator.SessionManager).SessionList
}

// readOnly is the mode of a disk whose file its VM does not write.
const readOnly = string(types.VirtualDiskModeIndependent_nonpersistent)

// locked says whether a running VM writes the file of bytes: the top of its chain. It also gives a file that was never
// asked for the size of its disk.
func (l *lab) locked(file string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, entity := range l.service.Context.Map.All("VirtualMachine") {
		vm, ok := entity.(*simulator.VirtualMachine)
		if !ok {
			continue
		}
		for _, disk := range disks(vm.Config.Hardware.Device) {
			image := l.images[backing(disk).FileName]
			if image == nil {
				image = l.imageOf(disk)
			}
			if image.data == file && backing(disk).DiskMode != readOnly {
				return vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
			}
		}
	}
	return false
}
