package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const pieceBytes = 1 << 20

// serveControls answers the test on a socket of its own. Errors are texts with status 400.
func (l *lab) serveControls(path string) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /vms", answering(l.postMachine))
	mux.HandleFunc("POST /vms/{vm}/disks/{key}", answering(l.postWrites))
	mux.HandleFunc("GET /vms/{vm}/disks/{key}", l.getContent)
	mux.HandleFunc("POST /vms/{vm}/crash", answering(l.postCrash))
	mux.HandleFunc("PUT /faults", answering(l.putFaults))
	mux.HandleFunc("GET /faults", answering(func(*http.Request) (any, error) { return l.faults.told(), nil }))
	mux.HandleFunc("PUT /latencies", answering(l.putLatencies))
	mux.HandleFunc("DELETE /sessions", answering(l.deleteSessions))
	mux.HandleFunc("GET /state", answering(func(*http.Request) (any, error) { return l.state(), nil }))
	go func() { log.Fatal(http.Serve(listener, mux)) }()
}

func answering(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		told, err := do(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(told)
	}
}

func (l *lab) postMachine(r *http.Request) (any, error) {
	var wanted wanted
	if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
		return nil, err
	}
	return l.create(r.Context(), wanted)
}

// postWrites is what the guest writes at one instant: offset and length (8 bytes each, big-endian), then the bytes, as
// often as wanted.
func (l *lab) postWrites(r *http.Request) (any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	vm, disk, err := l.diskIn(r)
	if err != nil {
		return nil, err
	}
	image, track := l.imageOf(disk), l.tracks[diskOf{vm.Self, disk.Key}]
	for {
		var header [16]byte
		if _, err := io.ReadFull(r.Body, header[:]); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		offset, length := int64(binary.BigEndian.Uint64(header[:8])), int64(binary.BigEndian.Uint64(header[8:]))
		content := make([]byte, length)
		if _, err := io.ReadFull(r.Body, content); err != nil {
			return nil, err
		}
		if err := image.write(offset, content); err != nil {
			return nil, err
		}
		if track != nil {
			track.wrote(offset, length)
		}
	}
}

// getContent is all of a disk as the guest sees it, or with ?snapshot=ID as a snapshot froze it.
func (l *lab) getContent(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, disk, err := l.diskIn(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	shown := l.imageOf(disk)
	if id := r.URL.Query().Get("snapshot"); id != "" {
		frozen := l.frozenDisk(types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: id}, disk.Key)
		if frozen == nil {
			http.Error(w, "the snapshot has no such disk", http.StatusBadRequest)
			return
		}
		shown = frozen.image
	}
	w.Header().Set("Content-Length", strconv.FormatInt(shown.capacity, 10))
	buffer := make([]byte, pieceBytes)
	for at := int64(0); at < shown.capacity; at += pieceBytes {
		part := buffer[:min(pieceBytes, shown.capacity-at)]
		if err := shown.read(at, part); err != nil {
			log.Print(err)
			return
		}
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

func (l *lab) diskIn(r *http.Request) (*simulator.VirtualMachine, *types.VirtualDisk, error) {
	vm := l.machineNamed(r.PathValue("vm"))
	if vm == nil {
		return nil, nil, fmt.Errorf("no VM %q", r.PathValue("vm"))
	}
	for _, disk := range disks(vm.Config.Hardware.Device) {
		if strconv.Itoa(int(disk.Key)) == r.PathValue("key") {
			return vm, disk, nil
		}
	}
	return nil, nil, fmt.Errorf("the VM %q has no disk %s", vm.Name, r.PathValue("key"))
}

// postCrash ends the tracking of a VM's disks, as a power loss of its host does.
func (l *lab) postCrash(r *http.Request) (any, error) {
	vm := l.machineNamed(r.PathValue("vm"))
	if vm == nil {
		return nil, fmt.Errorf("no VM %q", r.PathValue("vm"))
	}
	l.untracked(vm)
	return nil, nil
}

// untracked forgets what was tracked of a VM's disks.
func (l *lab) untracked(vm *simulator.VirtualMachine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, disk := range disks(vm.Config.Hardware.Device) {
		delete(l.tracks, diskOf{vm.Self, disk.Key})
	}
}

func (l *lab) putFaults(r *http.Request) (any, error) {
	var rules []*fault
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&rules); err != nil {
		return nil, err
	}
	l.faults.set(rules)
	return nil, nil
}

// deleteSessions logs everybody out, as time does.
func (l *lab) deleteSessions(r *http.Request) (any, error) {
	registry := l.service.Context.Map
	ids := []string{}
	for _, session := range l.sessions() {
		ids = append(ids, session.Key)
	}
	nobody := &simulator.Session{Registry: simulator.NewRegistry(), Map: registry}
	ctx := &simulator.Context{Context: context.Background(), Map: registry, Session: nobody}
	registry.SessionManager().TerminateSession(ctx, &types.TerminateSession{SessionId: ids})
	return ids, nil
}

// state is what a test looks at to see that nothing is left.
func (l *lab) state() map[string]any {
	registry := l.service.Context.Map
	l.mu.Lock()
	defer l.mu.Unlock()
	deltas := []string{}
	for _, image := range l.images {
		if image.parent != nil {
			deltas = append(deltas, image.name)
		}
	}
	machines := map[string]any{}
	for _, entity := range registry.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		attached, uuids := []string{}, []string{}
		for _, disk := range disks(vm.Config.Hardware.Device) {
			attached = append(attached, backing(disk).FileName)
			uuids = append(uuids, backing(disk).Uuid)
		}
		needed := vm.Runtime.ConsolidationNeeded != nil && *vm.Runtime.ConsolidationNeeded
		machines[vm.Name] = map[string]any{
			"id": vm.Self.Value, "snapshots": len(snapshotsIn(vm)), "disks": attached, "uuids": uuids, "consolidation_needed": needed,
		}
	}
	running := 0
	for _, found := range registry.AllReference("Task") {
		if task := found.(*simulator.Task); task.Info.State == types.TaskInfoStateRunning {
			running++
		}
	}
	return map[string]any{
		"machines": machines, "deltas": deltas, "datastores": l.stores, "tasks": running, "sessions": len(l.sessions()),
		"requests": l.requests.Load(),
	}
}
