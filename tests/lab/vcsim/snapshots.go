package main

import (
	"os"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// snapshot is one that froze disks which the lab keeps.
type snapshot struct {
	*simulator.VirtualMachineSnapshot
	lab *lab
}

// frozenDisk is a disk as a snapshot has it. track and epoch: of its changes, if they were tracked.
type frozenDisk struct {
	key   int32
	image *image
	track *track
	epoch int
}

// RemoveSnapshotTask removes it, and merges the deltas over it unless a fault says that they stay.
func (s *snapshot) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	vm := ctx.Map.Get(s.Vm).(*simulator.VirtualMachine)
	task := s.lab.task(ctx, vm, "RemoveSnapshot_Task", false, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		if vm.Snapshot == nil { // another task was first
			return nil, &types.ManagedObjectNotFound{Obj: s.Self}
		}
		refs := []types.ManagedObjectReference{s.Self}
		if tree := treeOf(vm.Snapshot.RootSnapshotList, s.Self); req.RemoveChildren && tree != nil {
			refs = append(snapshotsOf(tree.ChildSnapshotList), s.Self)
		}
		slices.Reverse(refs[:len(refs)-1]) // the youngest first
		for _, ref := range refs {
			found, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
			if !ok {
				return nil, &types.ManagedObjectNotFound{Obj: ref}
			}
			body := found.RemoveSnapshotTask(ctx, &types.RemoveSnapshot_Task{This: ref}).(*methods.RemoveSnapshot_TaskBody)
			if _, fault := inner(ctx, body.Res.Returnval); fault != nil {
				return nil, fault
			}
		}
		return nil, s.lab.thaw(ctx, vm, refs)
	})
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: task}}
}

// RevertToSnapshotTask gives the VM's disks the bytes of the snapshot again; their tracking begins anew.
func (s *snapshot) RevertToSnapshotTask(ctx *simulator.Context, req *types.RevertToSnapshot_Task) soap.HasFault {
	vm := ctx.Map.Get(s.Vm).(*simulator.VirtualMachine)
	task := s.lab.task(ctx, vm, "RevertToSnapshot_Task", false, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		body := s.VirtualMachineSnapshot.RevertToSnapshotTask(ctx, req).(*methods.RevertToSnapshot_TaskBody)
		if _, fault := inner(ctx, body.Res.Returnval); fault != nil {
			return nil, fault
		}
		return nil, s.lab.revert(ctx, vm, s.Self)
	})
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: task}}
}

// freeze gives every disk of a VM a delta to go on with, and the new snapshot what is below.
func (l *lab) freeze(ctx *simulator.Context, vm *simulator.VirtualMachine, ref types.ManagedObjectReference) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	made := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
	kept := slices.Clone(vm.Config.Hardware.Device)
	tracked := vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled
	for at, device := range kept {
		disk, ok := device.(*types.VirtualDisk)
		if !ok || !partakes(disk) {
			continue
		}
		now := &frozenDisk{key: disk.Key, image: l.imageOf(disk)}
		if tracked {
			now.track, now.epoch = l.endEpoch(diskOf{vm.Self, disk.Key})
		}
		l.frozen[ref] = append(l.frozen[ref], now)
		copied := copyOf(disk)
		if tracked {
			backing(copied).ChangeId = now.track.changeID(now.epoch)
		}
		kept[at] = copied
	}
	made.Config.Hardware.Device = kept
	return l.branch(ctx, vm, ref)
}

// partakes says whether snapshots freeze a disk: independent ones they do not.
func partakes(disk *types.VirtualDisk) bool {
	flat, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	return ok && !strings.HasPrefix(flat.DiskMode, "independent")
}

func (l *lab) endEpoch(of diskOf) (*track, int) {
	found := l.tracks[of]
	if found == nil {
		found = newTrack()
		l.tracks[of] = found
	}
	return found, found.end()
}

// branch makes the VM's disks deltas over those of a snapshot.
func (l *lab) branch(ctx *simulator.Context, vm *simulator.VirtualMachine, ref types.ManagedObjectReference) types.BaseMethodFault {
	devices := slices.Clone(vm.Config.Hardware.Device)
	for at, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		frozen := l.frozenDisk(ref, disk.Key)
		if frozen == nil {
			continue
		}
		l.deltas++
		delta, err := l.delta(frozen.image, l.deltas)
		if err != nil {
			return &types.FileFault{File: frozen.image.name}
		}
		devices[at] = over(disk, delta)
	}
	ctx.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
	return nil
}

func (l *lab) frozenDisk(ref types.ManagedObjectReference, key int32) *frozenDisk {
	for _, disk := range l.frozen[ref] {
		if disk.key == key {
			return disk
		}
	}
	return nil
}

// over is the device with another image behind it.
func over(disk *types.VirtualDisk, image *image) *types.VirtualDisk {
	copied := copyOf(disk)
	backing(copied).FileName = image.name
	backing(copied).Parent = parentOf(backing(disk), image.parent)
	copied.CapacityInBytes, copied.CapacityInKB = image.capacity, image.capacity>>10
	return copied
}

func parentOf(like *types.VirtualDiskFlatVer2BackingInfo, image *image) *types.VirtualDiskFlatVer2BackingInfo {
	if image == nil {
		return nil
	}
	made := *like
	made.FileName, made.ChangeId = image.name, ""
	made.Parent = parentOf(like, image.parent)
	return &made
}

func copyOf(disk *types.VirtualDisk) *types.VirtualDisk {
	copied, below := *disk, *backing(disk)
	copied.Backing = &below
	return &copied
}

// thaw forgets removed snapshots and merges what is over them, or leaves that for a consolidation.
func (l *lab) thaw(ctx *simulator.Context, vm *simulator.VirtualMachine, refs []types.ManagedObjectReference) types.BaseMethodFault {
	for _, ref := range refs {
		l.forget(ctx, ref)
	}
	l.mu.Lock()
	for _, ref := range refs {
		delete(l.frozen, ref)
	}
	l.mu.Unlock()
	if l.faults.ofMerge(vm.Name) {
		l.needed(ctx, vm, true)
		return nil
	}
	return l.consolidate(ctx, vm)
}

func (l *lab) needed(ctx *simulator.Context, vm *simulator.VirtualMachine, needed bool) {
	ctx.Update(vm, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: needed}})
}

// revert drops what was written since the snapshot.
func (l *lab) revert(ctx *simulator.Context, vm *simulator.VirtualMachine, ref types.ManagedObjectReference) types.BaseMethodFault {
	l.mu.Lock()
	for _, disk := range disks(vm.Config.Hardware.Device) {
		delete(l.tracks, diskOf{vm.Self, disk.Key})
	}
	fault := l.branch(ctx, vm, ref)
	l.mu.Unlock()
	if fault != nil {
		return fault
	}
	return l.consolidate(ctx, vm)
}

// consolidate merges every delta of a VM with the image below that no snapshot keeps, and removes those that nothing
// leads to any more.
func (l *lab) consolidate(ctx *simulator.Context, vm *simulator.VirtualMachine) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	devices := slices.Clone(vm.Config.Hardware.Device)
	var failed types.BaseMethodFault
	for at, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok || !partakes(disk) {
			continue
		}
		top, fault := l.merged(vm, l.imageOf(disk), disk.Key)
		if fault != nil {
			failed = fault
		}
		devices[at] = over(disk, top)
	}
	ctx.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
	for _, ref := range snapshotsIn(vm) {
		l.renew(ctx, ref)
	}
	l.needed(ctx, vm, failed != nil)
	return failed
}

// merged is the top of a disk's chain after all that can be merged in it is. The file of a delta always goes into the
// one below, so that a base that others hold open is written in place: refused, as by a lock.
func (l *lab) merged(vm *simulator.VirtualMachine, top *image, key int32) (*image, types.BaseMethodFault) {
	kept, branches := l.keptImages(top, key)
	for image := top; image.parent != nil; {
		below := image.parent
		if kept[below] || branches[below] > 1 {
			image = below
			continue
		}
		if l.heldElsewhere(vm, below) || l.heldElsewhere(vm, image) {
			return top, &types.FileLocked{FileFault: types.FileFault{File: below.name}}
		}
		if err := below.merge(image); err != nil {
			return top, &types.FileFault{File: below.name}
		}
		l.replace(image, below)
		if image == top {
			top = below
		}
		image = below
	}
	l.prune(top)
	return top, nil
}

// keptImages are those that snapshots keep, and how many images lie directly over each.
func (l *lab) keptImages(top *image, key int32) (map[*image]bool, map[*image]int) {
	kept, branches := map[*image]bool{}, map[*image]int{}
	for _, frozen := range l.frozen {
		for _, disk := range frozen {
			if disk.key == key && disk.image.bottom() == top.bottom() {
				kept[disk.image] = true
			}
		}
	}
	seen := map[*image]bool{}
	for leaf := range kept {
		for at := leaf; at.parent != nil && !seen[at]; at = at.parent {
			seen[at] = true
			branches[at.parent]++
		}
	}
	for at := top; at.parent != nil && !seen[at]; at = at.parent {
		seen[at] = true
		branches[at.parent]++
	}
	return kept, branches
}

// replace lets everything that names a merged delta name the image below it.
func (l *lab) replace(gone, below *image) {
	for _, image := range l.images {
		if image.parent == gone {
			image.parent = below
		}
	}
	for _, frozen := range l.frozen {
		for _, disk := range frozen {
			if disk.image == gone {
				disk.image = below
			}
		}
	}
	l.drop(gone)
}

// prune removes deltas of the same disk that neither a snapshot nor the VM leads to: what a revert left.
func (l *lab) prune(top *image) {
	led := map[*image]bool{}
	for at := top; at != nil; at = at.parent {
		led[at] = true
	}
	for _, frozen := range l.frozen {
		for _, disk := range frozen {
			for at := disk.image; at != nil; at = at.parent {
				led[at] = true
			}
		}
	}
	for _, image := range l.images {
		if image.parent != nil && !led[image] && image.bottom() == top.bottom() {
			l.drop(image)
		}
	}
}

func (l *lab) drop(image *image) {
	delete(l.images, image.name)
	_ = os.Remove(image.data)
	_ = os.Remove(l.fileAt(image.name))
}

// heldElsewhere says whether another VM has the image attached, as a proxy has while it reads it.
func (l *lab) heldElsewhere(vm *simulator.VirtualMachine, held *image) bool {
	for _, entity := range l.service.Context.Map.All("VirtualMachine") {
		other, ok := entity.(*simulator.VirtualMachine)
		if !ok || other.Self == vm.Self {
			continue
		}
		for _, disk := range disks(other.Config.Hardware.Device) {
			if backing(disk).FileName == held.name {
				return true
			}
		}
	}
	return false
}

// renew lets a snapshot's configuration name its images as they are called after a merge.
func (l *lab) renew(ctx *simulator.Context, ref types.ManagedObjectReference) {
	found, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
	if !ok {
		return
	}
	devices := slices.Clone(found.Config.Hardware.Device)
	for at, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		if frozen := l.frozenDisk(ref, disk.Key); frozen != nil {
			devices[at] = over(disk, frozen.image)
		}
	}
	ctx.Update(found, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
}

func snapshotsIn(vm *simulator.VirtualMachine) []types.ManagedObjectReference {
	if vm.Snapshot == nil {
		return nil
	}
	return snapshotsOf(vm.Snapshot.RootSnapshotList)
}

func snapshotsOf(trees []types.VirtualMachineSnapshotTree) []types.ManagedObjectReference {
	var found []types.ManagedObjectReference
	for _, tree := range trees {
		found = append(append(found, tree.Snapshot), snapshotsOf(tree.ChildSnapshotList)...)
	}
	return found
}

func treeOf(trees []types.VirtualMachineSnapshotTree, ref types.ManagedObjectReference) *types.VirtualMachineSnapshotTree {
	for at := range trees {
		if trees[at].Snapshot == ref {
			return &trees[at]
		}
		if found := treeOf(trees[at].ChildSnapshotList, ref); found != nil {
			return found
		}
	}
	return nil
}
