package catalogue

import "testing"

func TestMarkdown(t *testing.T) {
	t.Parallel()
	got := Markdown([]Kernel{
		{Name: "5.10", Hooks: []Hook{
			{Source: "nfs", Hook: "nfs_file_read", How: "kprobe"},
			{Source: "nfs", Hook: "nfs_file_write", How: "kprobe"},
			{Source: "nfs", Hook: "splice", How: "not needed", Reason: "it is\nanother"},
			{Source: "block", Hook: "block", How: "tp_btf"},
		}},
		{Name: "6.1", Hooks: []Hook{
			{Source: "nfs", Hook: "nfs_file_read", How: "fentry"},
			{Source: "nfs", Hook: "nfs_file_write", How: "fentry"},
			{Source: "nfs", Hook: "splice", How: "not needed", Reason: "it is\nanother"},
			{Source: "lock_wait", How: "missing", Reason: "no such event"},
		}},
	})
	const want = `| source | 5.10 | 6.1 |
| --- | --- | --- |
| ` + "`block`" + ` | tp_btf | - |
| ` + "`lock_wait`" + ` | - | missing |
| ` + "`nfs`" + ` | kprobe 2, not needed 1 | fentry 2, not needed 1 |

Not attached:

- lock_wait (6.1): missing: no such event
- nfs, splice (5.10, 6.1): not needed: it is; another
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
