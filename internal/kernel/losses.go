package kernel

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// Reasons that the kernel counts itself, beside the members of struct losses.
const (
	reasonRecursion = "recursion" // a program was already running on that CPU
	reasonMissed    = "missed"    // the kernel could not follow another call of a probed function
)

// skipped is how often the kernel did not run the programs of a source.
type skipped struct{ recursion, missed uint64 }

// lost returns the losses of a source.
func (s *loadedSource) lost() ([]Loss, error) {
	events, err := s.losses.read()
	if err != nil {
		return nil, fmt.Errorf("read losses of source %s: %w", s.source.name, err)
	}
	var losses []Loss
	for i, reason := range s.losses.reasons {
		losses = append(losses, Loss{Source: s.source.name, Reason: reason, Events: events[i]})
	}
	kernel := s.skipped()
	s.state.Recursion, s.state.Missed = kernel.recursion, kernel.missed
	return append(losses,
		Loss{Source: s.source.name, Reason: reasonRecursion, Events: kernel.recursion},
		Loss{Source: s.source.name, Reason: reasonMissed, Events: kernel.missed}), nil
}

// skipped returns how often the kernel did not run the source's programs, those included that were detached since.
func (s *loadedSource) skipped() skipped {
	all := s.gone
	var profile map[string]uint64
	for i := range s.hooks {
		for j := range s.hooks[i].attached {
			a := &s.hooks[i].attached[j]
			if a.probe != "" && profile == nil {
				profile = probeProfile()
			}
			all.recursion += a.recursionMisses()
			all.missed += a.missed(profile)
		}
	}
	return all
}

// recursionMisses returns how often the kernel skipped the program because it was running on that CPU (5.12).
func (a *attachment) recursionMisses() uint64 {
	stats, err := a.program.Stats()
	if err != nil {
		return 0
	}
	return stats.RecursionMisses
}

// missed returns how often the kernel skipped a probe. The link says so from 6.7 on; before that, only probes that were made through tracefs
// can be asked for it.
func (a *attachment) missed(profile map[string]uint64) uint64 {
	a.misses = max(a.misses, a.missedOfLink(), profile[a.probe])
	return a.misses
}

func (a *attachment) missedOfLink() uint64 {
	if a.program.Type() != ebpf.Kprobe {
		return 0
	}
	info, err := a.link.Info()
	if err != nil {
		return 0
	}
	event := info.PerfEvent()
	if event == nil || event.Kprobe() == nil {
		return 0
	}
	return event.Kprobe().Missed
}

// probeProfile returns how often each probe that was made through tracefs was skipped, by the name of its group up to the last "_". It is empty,
// but not nil, if the kernel does not say so.
func probeProfile() map[string]uint64 {
	for _, folder := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		events, err := readLines(filepath.Join(folder, "kprobe_events"))
		if err != nil {
			continue
		}
		profile, err := readLines(filepath.Join(folder, "kprobe_profile"))
		if err == nil {
			return parseProbeProfile(events, profile)
		}
	}
	return map[string]uint64{}
}

// parseProbeProfile joins two lists of the same probes: the first has their groups, the second how often they were hit and skipped.
func parseProbeProfile(events, profile []string) map[string]uint64 {
	skipped := map[string]uint64{}
	if len(events) != len(profile) {
		return skipped // one was made or removed between the readings
	}
	for i, line := range events {
		_, rest, _ := strings.Cut(line, ":")
		name, _, _ := strings.Cut(rest, " ")
		group, event, _ := strings.Cut(name, "/")
		fields := strings.Fields(profile[i])
		if len(fields) != 3 || fields[0] != event {
			return map[string]uint64{}
		}
		misses, err := strconv.ParseUint(fields[2], 10, 64)
		if at := strings.LastIndexByte(group, '_'); err == nil && at > 0 {
			skipped[group[:at]] += misses
		}
	}
	return skipped
}

func readLines(name string) ([]string, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	var lines []string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	return lines, scanner.Err()
}
