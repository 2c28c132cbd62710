package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// grainBytes is the granularity of copy-on-write and of tracking, as on ESXi for small disks.
const grainBytes = 64 << 10

const seekData, seekHole = 3, 4 // of lseek, on Linux

// image is one .vmdk: the base of a disk (a flat file of its bytes), or a delta that holds the grains written since a
// snapshot, at their own offsets in a sparse file. Read as if it were flat, a delta gives wrong bytes, as VMware's do.
type image struct {
	name     string // datastore path of the descriptor
	data     string // the file of the bytes
	uuid     string // of the disk; known from its first reconfiguration on
	capacity int64
	parent   *image
	grains   map[int64]bool // of a delta: those that it holds
}

// base is the image of a disk that was never seen before.
func (l *lab) base(name string, capacity int64) *image {
	data := simulator.VirtualDiskBackingFileName(l.fileAt(name))
	made := &image{name: name, data: data, capacity: capacity}
	made.grow()
	return made
}

// grow gives the file of the bytes the size of the disk: the simulator makes empty ones.
func (i *image) grow() {
	if info, err := os.Stat(i.data); err == nil && info.Size() < i.capacity {
		_ = os.Truncate(i.data, i.capacity)
	}
}

// delta begins an image over i, with a descriptor and a file of its own. number: makes its name.
func (l *lab) delta(i *image, number int) (*image, error) {
	stem := strings.TrimSuffix(i.bottom().name, ".vmdk")
	name := fmt.Sprintf("%s-%06d.vmdk", stem, number)
	data := strings.TrimSuffix(l.fileAt(name), ".vmdk") + "-sesparse.vmdk"
	descriptor, err := os.ReadFile(l.fileAt(i.bottom().name))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(l.fileAt(name), descriptor, 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		return nil, err
	}
	made := &image{name: name, data: data, capacity: i.capacity, parent: i, grains: map[int64]bool{}}
	made.grow()
	l.images[name] = made
	return made, nil
}

func (i *image) bottom() *image {
	for i.parent != nil {
		i = i.parent
	}
	return i
}

// read fills buffer with what the disk has at offset, as seen through i.
func (i *image) read(offset int64, buffer []byte) error {
	for len(buffer) > 0 {
		part := min(int64(len(buffer)), grainBytes-offset%grainBytes)
		holder := i
		for holder.parent != nil && !holder.grains[offset/grainBytes] {
			holder = holder.parent
		}
		if err := readAt(holder.data, offset, buffer[:part]); err != nil {
			return err
		}
		offset, buffer = offset+part, buffer[part:]
	}
	return nil
}

func readAt(path string, offset int64, buffer []byte) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	count, err := file.ReadAt(buffer, offset)
	clear(buffer[count:]) // past the end of a file that has not grown yet
	if err == io.EOF {
		return nil
	}
	return err
}

// write puts bytes into i itself; grains that it holds only a part of are completed from below.
func (i *image) write(offset int64, content []byte) error {
	if offset < 0 || offset+int64(len(content)) > i.capacity {
		return fmt.Errorf("%d bytes at %d are outside of a disk of %d", len(content), offset, i.capacity)
	}
	file, err := os.OpenFile(i.data, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if i.parent != nil {
		for grain := offset / grainBytes; grain*grainBytes < offset+int64(len(content)); grain++ {
			if i.grains[grain] {
				continue
			}
			whole := make([]byte, min(grainBytes, i.capacity-grain*grainBytes))
			if err := i.read(grain*grainBytes, whole); err != nil {
				return err
			}
			if _, err := file.WriteAt(whole, grain*grainBytes); err != nil {
				return err
			}
			i.grains[grain] = true
		}
	}
	_, err = file.WriteAt(content, offset)
	return err
}

// merge takes over what the delta child holds, which is then to be removed.
func (i *image) merge(child *image) error {
	for grain := range child.grains {
		whole := make([]byte, min(grainBytes, i.capacity-grain*grainBytes))
		if err := child.read(grain*grainBytes, whole); err != nil {
			return err
		}
		if err := i.write(grain*grainBytes, whole); err != nil {
			return err
		}
	}
	return nil
}

// allocated are the grains that hold data anywhere below.
func (i *image) allocated() (map[int64]bool, error) {
	found := map[int64]bool{}
	for ; i.parent != nil; i = i.parent {
		for grain := range i.grains {
			found[grain] = true
		}
	}
	file, err := os.Open(i.data)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for at := int64(0); ; {
		start, err := syscall.Seek(int(file.Fd()), at, seekData)
		if err != nil { // ENXIO: no more data
			return found, nil
		}
		if at, err = syscall.Seek(int(file.Fd()), start, seekHole); err != nil {
			return nil, err
		}
		for grain := start / grainBytes; grain*grainBytes < at; grain++ {
			found[grain] = true
		}
	}
}

// disks are the virtual disks of a list of devices that lie in files, in its order.
func disks(devices []types.BaseVirtualDevice) []*types.VirtualDisk {
	var found []*types.VirtualDisk
	for _, device := range devices {
		if disk, ok := device.(*types.VirtualDisk); ok {
			if _, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
				found = append(found, disk)
			}
		}
	}
	return found
}

func backing(disk *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	return disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
}

// imageOf is the image that a disk's backing names. l.mu is held.
func (l *lab) imageOf(disk *types.VirtualDisk) *image {
	name := backing(disk).FileName
	found := l.images[name]
	if found == nil {
		found = l.base(name, disk.CapacityInBytes)
		l.images[name] = found
	}
	if found.parent == nil && disk.CapacityInBytes > found.capacity {
		found.capacity = disk.CapacityInBytes
	}
	found.grow()
	return found
}
