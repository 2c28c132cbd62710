package main

import (
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// leftDeltas is the fault of a snapshot that goes while its deltas stay.
const leftDeltas = "ConsolidationNeeded"

// fault is what goes wrong on command.
type fault struct {
	Method  string // of the API, such as "RemoveSnapshot_Task", or "GET /folder"
	VM      string // by name; "" for any
	Fault   string // a type of the API, or leftDeltas; "" for a delay only
	Status  int    // of HTTP, instead of Fault
	Quiesce bool   // only where the guest is to be quiesced
	Call    bool   // the call itself fails, not the task that it makes
	After   bool   // the task does its work before it fails
	DelayMS int
	Skip    int // how often it goes well first
	Count   int // how often; 0 for always
	Hits    int // how often it went wrong
}

type faults struct {
	mu    sync.Mutex
	rules []*fault
}

func (f *faults) set(rules []*fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = rules
}

func (f *faults) told() []fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	told := []fault{}
	for _, rule := range f.rules {
		told = append(told, *rule)
	}
	return told
}

// next is the first rule that fits, which then counts as used.
func (f *faults) next(fits func(*fault) bool) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rule := range f.rules {
		if (rule.Count == 0 || rule.Hits < rule.Count) && fits(rule) {
			if rule.Skip > 0 {
				rule.Skip--
				return nil
			}
			rule.Hits++
			return rule
		}
	}
	return nil
}

// ofCall is for methods that make no task, and for rules that say so.
func (f *faults) ofCall(method, vm string) types.BaseMethodFault {
	rule := f.next(func(rule *fault) bool {
		call := rule.Call || !strings.HasSuffix(rule.Method, "_Task")
		return call && rule.Method == method && (rule.VM == "" || rule.VM == vm)
	})
	if rule == nil {
		return nil
	}
	time.Sleep(time.Duration(rule.DelayMS) * time.Millisecond)
	return faultNamed(rule.Fault)
}

// ofTask is for what goes wrong while a task runs.
func (f *faults) ofTask(method, vm string, quiesce bool) *fault {
	return f.next(func(rule *fault) bool {
		same := rule.Method == method || strings.HasPrefix(method, "CreateSnapshot") && strings.HasPrefix(rule.Method, "CreateSnapshot")
		return same && !rule.Call && rule.Fault != leftDeltas && (rule.VM == "" || rule.VM == vm) && (quiesce || !rule.Quiesce)
	})
}

// ofMerge says whether the deltas of a removed snapshot stay.
func (f *faults) ofMerge(vm string) bool {
	return f.next(func(rule *fault) bool {
		return rule.Fault == leftDeltas && (rule.VM == "" || rule.VM == vm)
	}) != nil
}

func (f *faults) ofRequest(method string) *fault {
	return f.next(func(rule *fault) bool { return rule.Method == method+" /folder" })
}

// faultNamed is a fault of the API by the name of its type.
func faultNamed(name string) types.BaseMethodFault {
	if name == "" {
		return nil
	}
	kind, ok := types.TypeFunc()(name)
	if !ok {
		return &types.SystemError{Reason: "the lab knows no fault " + name}
	}
	fault, ok := reflect.New(kind).Interface().(types.BaseMethodFault)
	if !ok {
		return &types.SystemError{Reason: name + " is no fault"}
	}
	return fault
}
