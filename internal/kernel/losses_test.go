package kernel

import "testing"

func TestParseProbeProfile(t *testing.T) {
	t.Parallel()
	events := []string{
		"p:latpush_1_aa/nfs_getattr nfs_getattr",
		"r1024:latpush_2_bb/nfs_getattr nfs_getattr",
		"r4:other/nfs_getattr nfs_getattr",
		"r1:latpush_2_cc/nfs_file_read nfs_file_read",
	}
	profile := []string{
		"  nfs_getattr        100       0",
		"  nfs_getattr         90      10",
		"  nfs_getattr          0      99",
		"  nfs_file_read        1       5",
	}
	got := parseProbeProfile(events, profile)
	if len(got) != 2 || got["latpush_2"] != 15 || got["latpush_1"] != 0 {
		t.Errorf("%v", got)
	}
	if got := parseProbeProfile(events[1:], profile); len(got) != 0 {
		t.Errorf("lists of different length give %v", got)
	}
	events[0], events[3] = events[3], events[0]
	if got := parseProbeProfile(events, profile); len(got) != 0 {
		t.Errorf("lists in different order give %v", got)
	}
}
