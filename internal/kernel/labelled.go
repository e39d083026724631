package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
)

// Labels that a source has when its configuration asks for them.
const (
	labelCgroup = "cgroup"
	labelMount  = "mount"
	labelServer = "server"
)

// byCgroup is what the name of the map has that a metric uses instead of its array when control groups are told apart.
const byCgroup = "_by_cgroup"

// validateLabels returns what is wrong with the labels that are asked of a source.
func validateLabels(s *source, labels []string) error {
	var errs []error
	for i, label := range labels {
		key := fmt.Sprintf("labels[%d]", i)
		switch {
		case len(s.labels) == 0:
			errs = append(errs, keyErrorf(key, "source %s has no labels to choose (remove the key)", s.name))
		case !slices.Contains(s.labels, label):
			errs = append(errs, keyErrorf(key, "source %s has no label %q to choose (one of %s)", s.name, label, strings.Join(s.labels, ", ")))
		case slices.Contains(labels[:i], label):
			errs = append(errs, keyErrorf(key, "label %s is listed twice", label))
		}
	}
	return errors.Join(errs...)
}

// bounded returns whether the label sets of the source are not a fixed list.
func (s *loadedSource) bounded() bool { return s.source.openLabels || len(s.config.Labels) > 0 }

// hidden returns the labels that the source could have and does not.
func (s *loadedSource) hidden() []string {
	return slices.DeleteFunc(slices.Clone(s.source.labels), func(label string) bool { return slices.Contains(s.config.Labels, label) })
}

// maxLabelSets returns how many label sets of each metric there can be beside those of "other".
func (s *loadedSource) maxLabelSets() int { return cmp.Or(s.config.MaxLabelSets, defaultMaxLabelSets) }

// labelSetsExpire returns after how long a label set leaves that counts nothing, 0 for never.
func (c *SourceConfig) labelSetsExpire() time.Duration {
	if c.LabelSetsExpire == nil {
		return defaultLabelSetsExpire
	}
	return time.Duration(*c.LabelSetsExpire)
}

// expireAfter changes after how long label sets leave.
func (s *loadedSource) expireAfter(after time.Duration) {
	for _, t := range s.tables {
		if t.expiry != nil {
			t.expiry.after = after
		}
	}
}

// labelSets returns how many label sets there are of each metric whose label sets are no fixed list.
func (s *loadedSource) labelSets() map[string]int {
	counts := map[string]int{}
	for _, t := range s.tables {
		if t.expiry != nil {
			counts[t.metric.Name] = len(t.sets)
		}
	}
	return counts
}

// mapOf returns the name of the map that a metric is counted in, and of the one that it would be counted in with other labels, if there is one.
func (s *loadedSource) mapOf(m *metric) (used, unused string) {
	used, unused = m.mapName(), m.mapName()+byCgroup
	if s.spec.Maps[unused] == nil {
		return used, ""
	}
	if slices.Contains(s.config.Labels, labelCgroup) {
		return unused, used
	}
	return used, unused
}

// layoutOf returns how the keys of a metric's map become label values, nil for an array.
func (s *loadedSource) layoutOf(m *metric) (*keyLayout, error) {
	name, _ := s.mapOf(m)
	spec := s.spec.Maps[name]
	if spec == nil {
		return nil, fmt.Errorf("find map %s: the object has no such map", name)
	}
	if spec.Type == ebpf.PerCPUArray {
		return nil, nil
	}
	layout, err := layoutOf(s.spec, name)
	if err != nil {
		return nil, err
	}
	layout.hide(s.hidden())
	if m.values != nil && len(m.labels) > 0 {
		layout.list(m.labels[0], m.values(&s.config))
	}
	for typedef, n := range s.numberings {
		layout.number(typedef, n)
	}
	return layout, nil
}

// has returns whether one of the labels that are to choose is chosen, or the source has it always.
func (s *loadedSource) has(label string) bool {
	return slices.Contains(s.config.Labels, label) || !slices.Contains(s.source.labels, label)
}

// newNumberings returns what names the numbers that the keys of the source's maps have.
func (s *loadedSource) newNumberings() map[string]numbering {
	numberings := map[string]numbering{}
	if s.spec.Maps[cgroupPathsMap] != nil && s.has(labelCgroup) {
		numberings[cgroupType] = newCgroups()
	}
	if s.spec.Variables["mount_label"] != nil {
		mounts := newMounts()
		if s.has(labelMount) {
			numberings[mountType] = mountPoints{mounts}
		}
		if s.has(labelServer) {
			numberings[serverType] = mountServers{mounts}
		}
	}
	return numberings
}

// chooseLabels tells the programs which labels there are, and sizes the maps for them.
func (s *loadedSource) chooseLabels() error {
	constants := map[string]any{}
	if paths := s.spec.Maps[cgroupPathsMap]; paths != nil {
		paths.MaxEntries = 1
		if s.has(labelCgroup) {
			paths.MaxEntries = uint32(s.maxLabelSets())
		}
		constants["cgroup_label"], constants["cgroup_controller"] = s.has(labelCgroup), s.environment.cgroupController()
	}
	if s.spec.Variables["mount_label"] != nil {
		constants["mount_label"], constants["server_label"] = s.has(labelMount), s.has(labelServer)
	}
	for name, value := range constants {
		if err := setVariable(s.spec, name, value); err != nil {
			return err
		}
	}
	for i := range s.source.metrics {
		if err := s.sizeMap(&s.source.metrics[i]); err != nil {
			return err
		}
	}
	return nil
}

// sizeMap sizes the map of a metric, and adds one for the counts of the label sets that leave it.
func (s *loadedSource) sizeMap(m *metric) error {
	used, unused := s.mapOf(m)
	if unused != "" {
		s.spec.Maps[unused].MaxEntries = 1
	}
	if !s.bounded() {
		return nil
	}
	layout, err := s.layoutOf(m)
	if err != nil || layout == nil {
		return err
	}
	counts := s.spec.Maps[used]
	counts.MaxEntries = uint32(s.maxLabelSets() + len(layout.others()))
	s.spec.Maps[used+keptSuffix] = keptSpec(counts, s.maxLabelSets())
	return nil
}

// expiryOf returns how label sets leave a map, of which some keys stay.
func (s *loadedSource) expiryOf(name string, stay [][]byte) (*expiry, error) {
	now, err := boottime()
	if err != nil {
		return nil, err
	}
	kept, err := newKeptCounts(s.maps[name+keptSuffix], now)
	if err != nil {
		return nil, err
	}
	e := &expiry{after: s.config.labelSetsExpire(), kept: kept, stay: map[string]bool{}}
	for _, key := range stay {
		e.stay[string(key)] = true
	}
	return e, nil
}

// refreshNames prepares naming the numbers in keys.
func (s *loadedSource) refreshNames() error {
	var errs []error
	for _, n := range s.numberings {
		errs = append(errs, n.refresh())
	}
	return errors.Join(errs...)
}

// sweepNames forgets the names of numbers that are in no key any more.
func (s *loadedSource) sweepNames() error {
	var errs []error
	for typedef, n := range s.numberings {
		used := map[uint64]bool{}
		for _, t := range s.tables {
			maps.Copy(used, t.numbers(typedef))
		}
		errs = append(errs, n.sweep(used))
	}
	return errors.Join(errs...)
}
