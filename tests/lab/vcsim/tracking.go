package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/vim25/types"
)

// mostExtents is the length of a reply of ESXi.
const mostExtents = 2000

// track remembers which grains of a disk were written, by the epochs between snapshots. A change id is the track's id
// and the number of the epoch that ended with the snapshot.
type track struct {
	id     string
	epochs []map[int64]bool
}

func newTrack() *track {
	return &track{id: uuid.NewString(), epochs: []map[int64]bool{{}}}
}

func (t *track) wrote(offset, length int64) {
	now := t.epochs[len(t.epochs)-1]
	for grain := offset / grainBytes; grain*grainBytes < offset+length; grain++ {
		now[grain] = true
	}
}

// end begins a new epoch and returns the number of the one that ended.
func (t *track) end() int {
	t.epochs = append(t.epochs, map[int64]bool{})
	return len(t.epochs) - 1
}

func (t *track) changeID(epoch int) string {
	return fmt.Sprintf("%s/%d", t.id, epoch)
}

// between are the grains written after the epoch that changeID names, up to and with the epoch last; false for an id
// that is not of this track or is later.
func (t *track) between(changeID string, last int) (map[int64]bool, bool) {
	id, number, found := strings.Cut(changeID, "/")
	since, err := strconv.Atoi(number)
	if !found || err != nil || id != t.id || since < 1 || since > last {
		return nil, false
	}
	changed := map[int64]bool{}
	for _, epoch := range t.epochs[since:last] {
		for grain := range epoch {
			changed[grain] = true
		}
	}
	return changed, true
}

// areas is a reply: extents from start on, as many as one holds. The last may reach past the end of the disk, by less
// than a grain, as on ESXi.
func areas(grains map[int64]bool, start, capacity int64) types.DiskChangeInfo {
	sorted := make([]int64, 0, len(grains))
	for grain := range grains {
		if (grain+1)*grainBytes > start {
			sorted = append(sorted, grain)
		}
	}
	slices.Sort(sorted)
	info := types.DiskChangeInfo{StartOffset: start, Length: capacity - start}
	for _, grain := range sorted {
		at := max(grain*grainBytes, start)
		count := len(info.ChangedArea)
		if count > 0 && info.ChangedArea[count-1].Start+info.ChangedArea[count-1].Length == at {
			info.ChangedArea[count-1].Length += grainBytes
			continue
		}
		if count == mostExtents {
			last := info.ChangedArea[count-1]
			info.Length = last.Start + last.Length - start
			break
		}
		info.ChangedArea = append(info.ChangedArea, types.DiskChangeExtent{Start: at, Length: (grain+1)*grainBytes - at})
	}
	return info
}
