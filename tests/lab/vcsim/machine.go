package main

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// machine is a VM whose disks the lab keeps.
type machine struct {
	*simulator.VirtualMachine
	lab *lab
}

// CreateSnapshotTask is the older form of CreateSnapshotExTask.
func (m *machine) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	extended := &types.CreateSnapshotEx_Task{
		This: req.This, Name: req.Name, Description: req.Description, Memory: req.Memory,
	}
	if req.Quiesce {
		extended.QuiesceSpec = &types.VirtualMachineGuestQuiesceSpec{}
	}
	task := m.createSnapshot(ctx, "CreateSnapshot_Task", extended)
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: task}}
}

// CreateSnapshotExTask makes a snapshot that freezes the bytes of the VM's disks.
func (m *machine) CreateSnapshotExTask(ctx *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	task := m.createSnapshot(ctx, "CreateSnapshotEx_Task", req)
	return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: task}}
}

func (m *machine) createSnapshot(ctx *simulator.Context, method string, req *types.CreateSnapshotEx_Task) types.ManagedObjectReference {
	quiesce := req.QuiesceSpec != nil
	return m.lab.task(ctx, m.VirtualMachine, method, quiesce, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		body := m.VirtualMachine.CreateSnapshotExTask(ctx, req).(*methods.CreateSnapshotEx_TaskBody)
		result, fault := inner(ctx, body.Res.Returnval)
		if fault == nil {
			fault = m.lab.freeze(ctx, m.VirtualMachine, result.(types.ManagedObjectReference))
		}
		return result, fault
	})
}

// RemoveAllSnapshotsTask removes and merges all of them.
func (m *machine) RemoveAllSnapshotsTask(ctx *simulator.Context, req *types.RemoveAllSnapshots_Task) soap.HasFault {
	task := m.lab.task(ctx, m.VirtualMachine, "RemoveAllSnapshots_Task", false, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		if m.Snapshot == nil {
			return nil, nil
		}
		refs := snapshotsOf(m.Snapshot.RootSnapshotList)
		body := m.VirtualMachine.RemoveAllSnapshotsTask(ctx, req).(*methods.RemoveAllSnapshots_TaskBody)
		if _, fault := inner(ctx, body.Res.Returnval); fault != nil {
			return nil, fault
		}
		return nil, m.lab.thaw(ctx, m.VirtualMachine, refs)
	})
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: task}}
}

// ConsolidateVMDisksTask merges what removed snapshots left behind.
func (m *machine) ConsolidateVMDisksTask(ctx *simulator.Context, req *types.ConsolidateVMDisks_Task) soap.HasFault {
	task := m.lab.task(ctx, m.VirtualMachine, "ConsolidateVMDisks_Task", false, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		return nil, m.lab.consolidate(ctx, m.VirtualMachine)
	})
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: task}}
}

// ReconfigVMTask keeps the identity of a disk that is attached a second time, and ends the tracking of one that grows or
// is not to be tracked.
func (m *machine) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	task := m.lab.task(ctx, m.VirtualMachine, "ReconfigVM_Task", false, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		before := sizes(m.Config.Hardware.Device)
		body := m.VirtualMachine.ReconfigVMTask(ctx, req).(*methods.ReconfigVM_TaskBody)
		result, fault := inner(ctx, body.Res.Returnval)
		m.lab.reconfigured(m.VirtualMachine, before)
		if off := req.Spec.ChangeTrackingEnabled; fault == nil && off != nil && !*off {
			m.lab.untracked(m.VirtualMachine)
		}
		// which the simulator changes without telling those who watch
		ctx.Update(m.VirtualMachine, []types.PropertyChange{{Name: "config.instanceUuid", Val: m.Config.InstanceUuid}})
		return result, fault
	})
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: task}}
}

// DestroyTask also forgets what the lab knows of the VM.
func (m *machine) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) soap.HasFault {
	task := m.lab.task(ctx, m.VirtualMachine, "Destroy_Task", false, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		attached := disks(m.Config.Hardware.Device) // which the simulator detaches first
		body := m.VirtualMachine.DestroyTask(ctx, req).(*methods.Destroy_TaskBody)
		result, fault := inner(ctx, body.Res.Returnval)
		if fault == nil {
			m.lab.destroyed(ctx, m.VirtualMachine, attached)
		}
		return result, fault
	})
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: task}}
}

// RelocateVMTask moves the files too, which the simulator leaves where they are.
func (m *machine) RelocateVMTask(ctx *simulator.Context, req *types.RelocateVM_Task) soap.HasFault {
	task := m.lab.task(ctx, m.VirtualMachine, "RelocateVM_Task", false, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		before := slices.Clone(m.Datastore)
		body := m.VirtualMachine.RelocateVMTask(ctx, req).(*methods.RelocateVM_TaskBody)
		result, fault := inner(ctx, body.Res.Returnval)
		if to := req.Spec.Datastore; fault == nil && to != nil {
			if err := m.lab.moved(ctx, m.VirtualMachine, *to); err != nil {
				return nil, &types.PlatformConfigFault{Text: err.Error()}
			}
			left(ctx, m.VirtualMachine, before)
			store := ctx.Map.Get(*to).(*simulator.Datastore)
			ctx.Map.AddReference(ctx, store, &store.Vm, m.Self)
		}
		return result, fault
	})
	return &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{Returnval: task}}
}

// UnregisterVM leaves the files.
func (m *machine) UnregisterVM(ctx *simulator.Context, req *types.UnregisterVM) soap.HasFault {
	body := m.VirtualMachine.UnregisterVM(ctx, req)
	if body.Fault() == nil {
		m.lab.forget(ctx, m.Self)
	}
	return body
}

// QueryChangedDiskAreas tells which grains changed between two snapshots, or are allocated at all ("*").
func (m *machine) QueryChangedDiskAreas(ctx *simulator.Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	body := &methods.QueryChangedDiskAreasBody{}
	info, fault := m.lab.changed(m.VirtualMachine, req)
	if fault != nil {
		body.Fault_ = simulator.Fault("the changed areas cannot be told", fault)
	} else {
		body.Res = &types.QueryChangedDiskAreasResponse{Returnval: info}
	}
	return body
}

func sizes(devices []types.BaseVirtualDevice) map[int32]int64 {
	found := map[int32]int64{}
	for _, disk := range disks(devices) {
		found[disk.Key] = disk.CapacityInBytes
	}
	return found
}

func (l *lab) reconfigured(vm *simulator.VirtualMachine, before map[int32]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, disk := range disks(vm.Config.Hardware.Device) {
		image := l.imageOf(disk)
		disk.CapacityInBytes, disk.CapacityInKB = image.capacity, image.capacity>>10 // of one that is attached untold
		if base := image.bottom(); base != image || image.uuid != "" {
			backing(disk).Uuid = base.uuid
		} else {
			image.uuid = backing(disk).Uuid
		}
		if size, there := before[disk.Key]; there && size != disk.CapacityInBytes {
			delete(l.tracks, diskOf{vm.Self, disk.Key})
		}
	}
}

func (l *lab) destroyed(ctx *simulator.Context, vm *simulator.VirtualMachine, attached []*types.VirtualDisk) {
	l.forget(ctx, vm.Self)
	l.mu.Lock()
	defer l.mu.Unlock()
	for of := range l.tracks {
		if of.vm == vm.Self {
			delete(l.tracks, of)
		}
	}
	for _, disk := range attached {
		for image := l.images[backing(disk).FileName]; image != nil; image = image.parent {
			delete(l.images, image.name)
		}
	}
}

// toldOf is the disk as a snapshot has it, or without one as it is now: all epochs have ended for who asks.
func (l *lab) toldOf(vm *simulator.VirtualMachine, ref *types.ManagedObjectReference, key int32) *frozenDisk {
	if ref != nil {
		return l.frozenDisk(*ref, key)
	}
	for _, disk := range disks(vm.Config.Hardware.Device) {
		if disk.Key == key {
			now := &frozenDisk{key: key, image: l.imageOf(disk), track: l.tracks[diskOf{vm.Self, key}]}
			if now.track != nil {
				now.epoch = len(now.track.epochs)
			}
			return now
		}
	}
	return nil
}

func (l *lab) changed(vm *simulator.VirtualMachine, req *types.QueryChangedDiskAreas) (types.DiskChangeInfo, types.BaseMethodFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	none := types.DiskChangeInfo{}
	if req.Snapshot == nil && vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return none, &types.FileFault{File: vm.Name}
	}
	disk := l.toldOf(vm, req.Snapshot, req.DeviceKey)
	if disk == nil {
		return none, &types.InvalidArgument{InvalidProperty: "deviceKey"}
	}
	if req.StartOffset < 0 || req.StartOffset >= disk.image.capacity {
		return none, &types.InvalidArgument{InvalidProperty: "startOffset"}
	}
	stale := &types.FileFault{File: disk.image.name}
	if disk.track == nil {
		return none, stale
	}
	if req.ChangeId == "*" {
		grains, err := disk.image.allocated()
		if err != nil {
			return none, stale
		}
		return areas(grains, req.StartOffset, disk.image.capacity), nil
	}
	grains, ok := disk.track.between(req.ChangeId, disk.epoch)
	if !ok || l.tracks[diskOf{vm.Self, req.DeviceKey}] != disk.track {
		return none, stale
	}
	return areas(grains, req.StartOffset, disk.image.capacity), nil
}
