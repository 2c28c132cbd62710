package main

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// lab is what this program knows beyond the simulator. mu guards all of it, the bytes of disks included, so that a
// snapshot is one instant for all disks of a VM.
type lab struct {
	service  *simulator.Service
	faults   faults
	stores   map[string]string // folders of datastores by name
	requests atomic.Int64      // to /folder

	mu         sync.Mutex
	shares     map[string]types.HostNasVolumeSpec             // datastores that are mounted over NFS
	images     map[string]*image                              // by datastore path of the descriptor
	tracks     map[diskOf]*track                              // of disks whose changes are tracked
	frozen     map[types.ManagedObjectReference][]*frozenDisk // by snapshot
	deltas     int                                            // made so far: numbers their files
	latencies  map[string]int64                               // by datastore, in milliseconds
	registries map[*simulator.Registry]bool                   // of sessions, in which wrappers lie
}

// diskOf names a virtual disk: its VM and the key of the device.
type diskOf struct {
	vm  types.ManagedObjectReference
	key int32
}

func newLab(service *simulator.Service) *lab {
	l := &lab{
		service:    service,
		stores:     map[string]string{},
		shares:     map[string]types.HostNasVolumeSpec{},
		images:     map[string]*image{},
		tracks:     map[diskOf]*track{},
		frozen:     map[types.ManagedObjectReference][]*frozenDisk{},
		registries: map[*simulator.Registry]bool{},
	}
	for _, entity := range service.Context.Map.All("Datastore") {
		store := entity.(*simulator.Datastore)
		l.stores[store.Name] = store.Summary.Url
	}
	service.Context.Map.Handler = l.handle
	return l
}

// handle sees every call before it is carried out. What it puts into the session's registry is taken instead of the
// simulator's own object; what it returns would not be, for anybody who is logged in.
func (l *lab) handle(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Session == nil {
		return nil, nil
	}
	found := ctx.Map.Get(method.This)
	if fault := l.faults.ofCall(method.Name, l.nameOf(ctx, found)); fault != nil {
		return nil, fault
	}
	var wrapper mo.Reference
	switch found := found.(type) {
	case *simulator.VirtualMachine:
		wrapper = &machine{VirtualMachine: found, lab: l}
	case *simulator.VirtualMachineSnapshot:
		wrapper = &snapshot{VirtualMachineSnapshot: found, lab: l}
	case *simulator.HostDatastoreSystem:
		wrapper = &datastoreSystem{HostDatastoreSystem: found, lab: l}
	case *simulator.PerformanceManager:
		wrapper = &performance{PerformanceManager: found, lab: l}
	default:
		return nil, nil
	}
	l.mu.Lock()
	l.registries[ctx.Session.Registry] = true
	l.mu.Unlock()
	if ctx.Session.Registry.Get(method.This) == nil {
		ctx.Session.Registry.Put(wrapper)
	}
	return nil, nil
}

// nameOf is the name of the VM that an object is or belongs to; "" for others.
func (l *lab) nameOf(ctx *simulator.Context, found mo.Reference) string {
	switch found := found.(type) {
	case *simulator.VirtualMachine:
		return found.Name
	case *simulator.VirtualMachineSnapshot:
		if vm, ok := ctx.Map.Get(found.Vm).(*simulator.VirtualMachine); ok {
			return vm.Name
		}
	}
	return ""
}

// forget removes the wrappers of an object that is no more: a session would find them before it misses the object.
func (l *lab) forget(ctx *simulator.Context, ref types.ManagedObjectReference) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for registry := range l.registries {
		registry.Remove(ctx, ref)
	}
}

// inProcess is a context for acts of the lab itself.
func (l *lab) inProcess() *simulator.Context {
	return &simulator.Context{Context: context.Background(), Map: l.service.Context.Map}
}

func (l *lab) machineNamed(name string) *simulator.VirtualMachine {
	for _, entity := range l.service.Context.Map.All("VirtualMachine") {
		if vm, ok := entity.(*simulator.VirtualMachine); ok && vm.Name == name {
			return vm
		}
	}
	return nil
}

// fileAt is where a datastore path lies on this machine.
func (l *lab) fileAt(name string) string {
	var at object.DatastorePath
	at.FromString(name)
	if folder, known := l.stores[at.Datastore]; known {
		return filepath.Join(folder, at.Path)
	}
	return ""
}
