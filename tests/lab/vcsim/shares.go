package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/willscott/go-nfs-client/nfs"
	"github.com/willscott/go-nfs-client/nfs/rpc"
)

const flatSuffix = "-flat.vmdk"

// datastoreSystem mounts NFS datastores in earnest: by a client of NFS 3 that asks the portmapper, as a host does. The
// simulator has a folder of copies of what is there.
type datastoreSystem struct {
	*simulator.HostDatastoreSystem
	lab *lab
}

// CreateNasDatastore mounts the share, reads what is in it and leaves a mark there, as a host does.
func (s *datastoreSystem) CreateNasDatastore(ctx *simulator.Context, req *types.CreateNasDatastore) soap.HasFault {
	name := req.Spec.LocalPath
	s.lab.mu.Lock()
	_, known := s.lab.stores[name]
	s.lab.mu.Unlock()
	if known {
		return &methods.CreateNasDatastoreBody{Fault_: simulator.Fault(name, &types.DuplicateName{Name: name})}
	}
	folder, err := mount(req.Spec)
	if err != nil {
		return &methods.CreateNasDatastoreBody{Fault_: simulator.Fault(err.Error(), &types.PlatformConfigFault{Text: err.Error()})}
	}
	told := *req
	told.Spec.LocalPath = folder
	body := s.HostDatastoreSystem.CreateNasDatastore(ctx, &told)
	if body.Fault() == nil {
		s.lab.mu.Lock()
		s.lab.stores[name], s.lab.shares[name] = folder, req.Spec
		s.lab.mu.Unlock()
	}
	return body
}

// RemoveDatastore unmounts a datastore from which no VM is registered.
func (s *datastoreSystem) RemoveDatastore(ctx *simulator.Context, req *types.RemoveDatastore) soap.HasFault {
	store, ok := ctx.Map.Get(req.Datastore).(*simulator.Datastore)
	if !ok {
		return &methods.RemoveDatastoreBody{Fault_: simulator.Fault("", &types.NotFound{})}
	}
	body := store.DestroyTask(ctx, &types.Destroy_Task{This: store.Self}).(*methods.Destroy_TaskBody)
	if _, fault := inner(ctx, body.Res.Returnval); fault != nil {
		return &methods.RemoveDatastoreBody{Fault_: simulator.Fault("the datastore is in use", fault)}
	}
	ctx.Map.RemoveReference(ctx, s.HostDatastoreSystem, &s.Datastore, store.Self)
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	_ = os.RemoveAll(filepath.Dir(s.lab.stores[store.Name]))
	delete(s.lab.stores, store.Name)
	delete(s.lab.shares, store.Name)
	for name := range s.lab.images {
		if strings.HasPrefix(name, "["+store.Name+"] ") {
			delete(s.lab.images, name)
		}
	}
	return &methods.RemoveDatastoreBody{Res: &types.RemoveDatastoreResponse{}}
}

// open is a connection with a share; its server may be another one than before. The client binds to a port that it
// draws, which another connection may have still: then it draws again.
func open(spec types.HostNasVolumeSpec) (*nfs.Target, error) {
	for {
		target, err := dial(spec)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return target, err
		}
	}
}

func dial(spec types.HostNasVolumeSpec) (*nfs.Target, error) {
	server, err := nfs.DialMount(spec.RemoteHost, 0)
	if err != nil {
		return nil, err
	}
	defer server.Close()
	return server.Mount(spec.RemotePath, rpc.NewAuthUnix("host.lab", 0, 0).Auth())
}

// mount copies what is in a share to a folder, and leaves a mark there.
func mount(spec types.HostNasVolumeSpec) (string, error) {
	target, err := open(spec)
	if err != nil {
		return "", err
	}
	defer target.Close()
	entries, err := target.ReadDirPlus("/")
	if err != nil {
		return "", err
	}
	parent, err := os.MkdirTemp("", "share")
	if err != nil {
		return "", err
	}
	folder := filepath.Join(parent, spec.LocalPath)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			if err := fetch(target, entry.Name(), filepath.Join(folder, entry.Name())); err != nil {
				return "", err
			}
		}
	}
	return folder, leaveMark(target)
}

// leaveMark makes a file and takes it away again: a datastore that is mounted to be written to is tried so.
func leaveMark(target *nfs.Target) error {
	const name = "/.lck-mount"
	file, err := target.OpenFile(name, 0o600)
	if err != nil {
		return err
	}
	if _, err := file.Write([]byte("host.lab")); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return target.Remove(name)
}

// fetch copies a file of a share.
func fetch(target *nfs.Target, name, to string) error {
	from, err := target.Open("/" + name)
	if err != nil {
		return err
	}
	defer from.Close()
	file, err := os.Create(to)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(file, from)
	return err
}

// moved brings the files of a VM to another datastore, its disks as they are on their share now.
func (l *lab) moved(ctx *simulator.Context, vm *simulator.VirtualMachine, to types.ManagedObjectReference) error {
	store := ctx.Map.Get(to).(*simulator.Datastore)
	folder := filepath.Join(store.Summary.Url, vm.Name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, disk := range disks(vm.Config.Hardware.Device) {
		image := l.imageOf(disk)
		var was object.DatastorePath
		was.FromString(image.name)
		stem := strings.TrimSuffix(filepath.Base(was.Path), ".vmdk")
		data := filepath.Join(folder, stem+flatSuffix)
		if spec, mounted := l.shares[was.Datastore]; mounted {
			target, err := open(spec)
			if err != nil {
				return err
			}
			err = fetch(target, stem+flatSuffix, data)
			target.Close()
			if err != nil {
				return err
			}
		} else if err := os.Rename(image.data, data); err != nil {
			return err
		}
		if err := os.Rename(l.fileAt(image.name), filepath.Join(folder, stem+".vmdk")); err != nil {
			return err
		}
		delete(l.images, image.name)
		image.name, image.data = "["+store.Name+"] "+vm.Name+"/"+stem+".vmdk", data
		l.images[image.name] = image
		backing(disk).FileName, backing(disk).Datastore = image.name, &store.Self
	}
	home := "[" + store.Name + "] " + vm.Name
	vmx := home + "/" + filepath.Base(vm.Config.Files.VmPathName)
	vm.Config.Files.SnapshotDirectory, vm.Config.Files.SuspendDirectory, vm.Config.Files.LogDirectory = home, home, home
	ctx.Update(vm, []types.PropertyChange{
		{Name: "config.files.vmPathName", Val: vmx},
		{Name: "summary.config.vmPathName", Val: vmx},
		{Name: "config.hardware.device", Val: vm.Config.Hardware.Device},
	})
	return nil
}

// left takes a VM out of the lists of the datastores that it was on: the simulator leaves it there.
func left(ctx *simulator.Context, vm mo.Reference, stores []types.ManagedObjectReference) {
	for _, ref := range stores {
		if store, ok := ctx.Map.Get(ref).(*simulator.Datastore); ok {
			ctx.Map.RemoveReference(ctx, store, &store.Vm, vm.Reference())
		}
	}
}
