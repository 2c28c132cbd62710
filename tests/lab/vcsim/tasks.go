package main

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// recentTasks is how many of its tasks a VM names.
const recentTasks = 10

type act func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault)

// task runs an act on a VM as a task that goes wrong on command. While it is delayed the VM can be read, as on a
// vCenter; the simulator's own tasks hold its lock.
func (l *lab) task(ctx *simulator.Context, vm *simulator.VirtualMachine, method string, quiesce bool, do act) types.ManagedObjectReference {
	// The task locks what it is of: nobody else's VM, until it is told that it is of ours.
	nobody := types.ManagedObjectReference{Type: vm.Self.Type, Value: uuid.NewString()}
	mine := *ctx // locks belong to a context: the task's are not the call's
	verb := strings.ToLower(method[:1]) + strings.TrimSuffix(method[1:], "_Task")
	task := simulator.CreateTask(nobody, verb+"Task", func(task *simulator.Task) (types.AnyType, types.BaseMethodFault) {
		mine.Map.AtomicUpdate(&mine, task, []types.PropertyChange{
			{Name: "info.entity", Val: vm.Self},
			{Name: "info.entityName", Val: vm.Name},
		})
		var result types.AnyType
		var failed types.BaseMethodFault
		rule := l.faults.ofTask(method, vm.Name, quiesce)
		if rule != nil {
			time.Sleep(time.Duration(rule.DelayMS) * time.Millisecond)
			failed = faultNamed(rule.Fault)
			if failed != nil && !rule.After {
				return nil, failed
			}
		}
		mine.Map.WithLock(&mine, vm, func() {
			var fault types.BaseMethodFault
			if result, fault = do(&mine); fault != nil {
				failed = fault
			}
		})
		if failed != nil {
			return nil, failed
		}
		return result, nil
	})
	ref := task.Run(ctx)
	recent := append(slices.Clone(vm.RecentTask), ref)
	ctx.Map.AtomicUpdate(ctx, vm, []types.PropertyChange{
		{Name: "recentTask", Val: recent[max(0, len(recent)-recentTasks):]},
	})
	return ref
}

// inner carries out a task of the simulator's as a part of one of ours, and removes it.
func inner(ctx *simulator.Context, ref types.ManagedObjectReference) (types.AnyType, types.BaseMethodFault) {
	task := ctx.Map.Get(ref).(*simulator.Task)
	task.Wait()
	var info types.TaskInfo
	ctx.Map.WithLock(ctx, task, func() { info = task.Info })
	ctx.Map.Remove(ctx, ref)
	if info.Error != nil {
		return nil, info.Error.Fault
	}
	return info.Result, nil
}
