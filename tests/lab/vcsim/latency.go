package main

import (
	"encoding/json"
	"net/http"
	"path"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// performance answers what hosts measure of datastores with what the test says.
type performance struct {
	*simulator.PerformanceManager
	lab *lab
}

// putLatencies sets how many milliseconds datastores take, by their names.
func (l *lab) putLatencies(r *http.Request) (any, error) {
	told := map[string]int64{}
	if err := json.NewDecoder(r.Body).Decode(&told); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latencies = told
	return nil, nil
}

// QueryPerf answers for metrics of a datastore, by the last part of its URL; all else is the simulator's.
func (p *performance) QueryPerf(ctx *simulator.Context, req *types.QueryPerf) soap.HasFault {
	body := p.PerformanceManager.QueryPerf(ctx, req)
	told, ok := body.(*methods.QueryPerfBody)
	if !ok || told.Res == nil {
		return body
	}
	for _, metrics := range told.Res.Returnval {
		entity, ok := metrics.(*types.PerfEntityMetric)
		if !ok {
			continue
		}
		for _, values := range entity.Value {
			series, ok := values.(*types.PerfMetricIntSeries)
			if !ok {
				continue
			}
			if latency, there := p.lab.latencyOf(series.Id.Instance); there {
				for at := range series.Value {
					series.Value[at] = latency
				}
			}
		}
	}
	return body
}

func (l *lab) latencyOf(instance string) (int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, entity := range l.service.Context.Map.All("Datastore") {
		if store := entity.(*simulator.Datastore); path.Base(store.Summary.Url) == instance {
			latency, there := l.latencies[store.Name]
			return latency, there
		}
	}
	return 0, false
}
