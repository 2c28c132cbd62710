package main

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// wanted is a VM to be made: with a disk of each size, on a datastore and a host by their numbers.
type wanted struct {
	Name      string
	Disks     []int64
	Datastore int
	Host      int
	Off       bool
	Folder    string // of VMs; made if there is none
}

// made is a VM's id and the keys of its disks.
type made struct {
	ID    string  `json:"id"`
	Disks []int32 `json:"disks"`
}

func (l *lab) create(ctx context.Context, w wanted) (*made, error) {
	client, err := vim25.NewClient(ctx, l.service)
	if err != nil {
		return nil, err
	}
	folder, err := l.folder(ctx, client, w.Folder)
	if err != nil {
		return nil, err
	}
	hosts, stores := l.sorted("HostSystem"), l.sorted("Datastore")
	if w.Host >= len(hosts) || w.Datastore >= len(stores) {
		return nil, errors.New("there are not so many hosts or datastores")
	}
	host := object.NewHostSystem(client, hosts[w.Host].Self)
	pool, err := host.ResourcePool(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := specOf(w, "["+stores[w.Datastore].Name+"]")
	if err != nil {
		return nil, err
	}
	id, err := finished(folder.CreateVM(ctx, spec, pool, host))
	if err != nil {
		return nil, err
	}
	if !w.Off {
		if _, err := finished(object.NewVirtualMachine(client, id).PowerOn(ctx)); err != nil {
			return nil, err
		}
	}
	return l.seen(id), nil
}

// seen opens the images of a new VM's disks.
func (l *lab) seen(id types.ManagedObjectReference) *made {
	vm := l.service.Context.Map.Get(id).(*simulator.VirtualMachine)
	l.mu.Lock()
	defer l.mu.Unlock()
	told := &made{ID: id.Value, Disks: []int32{}}
	for _, disk := range disks(vm.Config.Hardware.Device) {
		l.imageOf(disk).uuid = backing(disk).Uuid
		told.Disks = append(told.Disks, disk.Key)
	}
	return told
}

func specOf(w wanted, store string) (types.VirtualMachineConfigSpec, error) {
	var devices object.VirtualDeviceList
	scsi, err := devices.CreateSCSIController("pvscsi")
	if err != nil {
		return types.VirtualMachineConfigSpec{}, err
	}
	devices = append(devices, scsi)
	for at, size := range w.Disks {
		name := fmt.Sprintf("%s %s/%s.vmdk", store, w.Name, w.Name)
		if at > 0 {
			name = fmt.Sprintf("%s %s/%s_%d.vmdk", store, w.Name, w.Name, at)
		}
		disk := devices.CreateDisk(scsi.(types.BaseVirtualController), types.ManagedObjectReference{}, name)
		disk.CapacityInBytes, disk.CapacityInKB = size, size>>10
		backing(disk).ThinProvisioned = types.NewBool(true)
		devices = append(devices, disk)
	}
	nic, err := devices.CreateEthernetCard("vmxnet3", &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "VM Network"},
	})
	if err != nil {
		return types.VirtualMachineConfigSpec{}, err
	}
	devices = append(devices, nic)
	changes, err := devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	return types.VirtualMachineConfigSpec{
		Name:         w.Name,
		GuestId:      string(types.VirtualMachineGuestOsIdentifierDebian11_64Guest),
		Files:        &types.VirtualMachineFileInfo{VmPathName: store},
		NumCPUs:      1,
		MemoryMB:     512,
		DeviceChange: changes,
		ExtraConfig:  []types.BaseOptionValue{&types.OptionValue{Key: "disk.EnableUUID", Value: "TRUE"}},
	}, err
}

// folder is the root of VMs, or a folder in it.
func (l *lab) folder(ctx context.Context, client *vim25.Client, name string) (*object.Folder, error) {
	finder := find.NewFinder(client, false)
	center, err := finder.DefaultDatacenter(ctx)
	if err != nil {
		return nil, err
	}
	folders, err := center.Folders(ctx)
	if err != nil || name == "" {
		return folders.VmFolder, err
	}
	if found, err := finder.SetDatacenter(center).Folder(ctx, folders.VmFolder.InventoryPath+"/"+name); err == nil {
		return found, nil
	}
	return folders.VmFolder.CreateFolder(ctx, name)
}

// sorted are the entities of a kind by their names.
func (l *lab) sorted(kind string) []*mo.ManagedEntity {
	var found []*mo.ManagedEntity
	for _, entity := range l.service.Context.Map.All(kind) {
		found = append(found, entity.Entity())
	}
	sort.Slice(found, func(a, b int) bool { return found[a].Name < found[b].Name })
	return found
}

func finished(task *object.Task, err error) (types.ManagedObjectReference, error) {
	none := types.ManagedObjectReference{}
	if err != nil {
		return none, err
	}
	info, err := task.WaitForResult(context.Background(), nil)
	if err != nil {
		return none, err
	}
	if id, ok := info.Result.(types.ManagedObjectReference); ok {
		return id, nil
	}
	return none, nil
}
