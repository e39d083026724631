package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/alecthomas/kingpin/v2"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/quarantine"
)

// spoolCommand is `latpush spool`: what waits on disk, for people. It takes no lock and may be used while an agent runs.
type spoolCommand struct {
	*command
	directory string   // of the spool; "" for that of the configuration
	position  string   // to dump; "" for the newest
	receiver  string   // whose requests are replayed; "" for all
	ids       []string // of requests to replay, or "all"
}

// addSpool adds the command and what belongs to it.
func (c *command) addSpool(app *kingpin.Application, commands map[string]func() error) {
	s := &spoolCommand{command: c}
	group := app.Command("spool", "Show what waits on disk for its receivers, also while an agent runs.")
	group.Flag("directory", "Spool directory. The default is spool.directory of the configuration file.").StringVar(&s.directory)
	add := func(name, help string, action func() error) *kingpin.CmdClause {
		commands["spool "+name] = action
		return group.Command(name, help)
	}
	add("list", "List segments, cursors, damaged files and quarantined requests.", s.list)
	add("dump", "Print one snapshot as text.", s.dump).Arg("position", "Position of the snapshot. The default is the newest.").StringVar(&s.position)
	add("quarantine", "List the requests that were set apart because a receiver only ever failed at them.", s.quarantine)
	replay := add("replay", "Send quarantined requests again, and remove those that are accepted.", s.replay)
	replay.Flag("receiver", "Only requests for the receiver of this name.").StringVar(&s.receiver)
	replay.Arg("id", "Numbers of requests, as `spool quarantine` lists them, or all.").Required().StringsVar(&s.ids)
}

// spoolDirectory returns the directory of the spool.
func (s *spoolCommand) spoolDirectory() (string, error) {
	if s.directory != "" {
		return s.directory, nil
	}
	loaded, err := config.Load(s.configFile, identity.Read())
	if err != nil {
		return "", err
	}
	return loaded.Spool.Directory, nil
}

// inspect reads the spool.
func (s *spoolCommand) inspect() (*spool.Contents, error) {
	directory, err := s.spoolDirectory()
	if err != nil {
		return nil, err
	}
	contents, err := spool.Inspect(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (no agent has run with it yet, or it is another one: name it with --directory)", err)
	}
	return contents, err
}

// list prints everything but the snapshots themselves.
func (s *spoolCommand) list() error {
	contents, err := s.inspect()
	if err != nil {
		return err
	}
	if err := printSegments(s.stdout, contents); err != nil {
		return err
	}
	if err := printCursors(s.stdout, contents.Cursors); err != nil {
		return err
	}
	if err := printFiles(s.stdout, contents); err != nil {
		return err
	}
	entries, err := quarantine.List(filepath.Join(contents.Directory, quarantine.Folder))
	if err != nil || len(entries) == 0 {
		return err
	}
	fmt.Fprintln(s.stdout)
	return printQuarantine(s.stdout, entries)
}

func printSegments(w io.Writer, contents *spool.Contents) error {
	var snapshots int
	var bytes int64
	for _, g := range contents.Segments {
		snapshots += g.Snapshots
		bytes += g.Bytes
	}
	fmt.Fprintf(w, "%s: snapshots: %d, segments: %d, size: %s\n", contents.Directory, snapshots, len(contents.Segments), size(bytes))
	if len(contents.Segments) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	table := newTable(w)
	fmt.Fprintln(table, "SEGMENT\tSIZE\tSNAPSHOTS\tPOSITIONS\tOLDEST\tNEWEST\tSPACING\tREMARK")
	for _, g := range contents.Segments {
		positions, oldest, newest := "-", "-", "-"
		if g.Snapshots > 0 {
			positions, oldest, newest = fmt.Sprintf("%d-%d", g.First, g.Last), moment(g.Oldest.Wall), moment(g.Newest.Wall)
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n",
			g.Name, size(g.Bytes), g.Snapshots, positions, oldest, newest, spacing(g.Spacing), segmentRemark(g))
	}
	return table.Flush()
}

func spacing(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(time.Millisecond).String()
}

func segmentRemark(g spool.SegmentInfo) string {
	switch {
	case g.Err != nil:
		return printable(g.Err.Error())
	case g.Damaged > 0:
		return fmt.Sprintf("damaged stretches: %d", g.Damaged)
	}
	return ""
}

func printCursors(w io.Writer, cursors []spool.CursorInfo) error {
	if len(cursors) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	table := newTable(w)
	fmt.Fprintln(table, "RECEIVER\tDELIVERED\tPENDING\tSTATE")
	for _, cursor := range cursors {
		state := describeState(cursor.State)
		if cursor.Err != nil {
			state = printable(cursor.Err.Error())
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%s\n", cursor.Name, cursor.Position, cursor.Pending, state)
	}
	return table.Flush()
}

// printFiles lists what was set aside or is not finished.
func printFiles(w io.Writer, contents *spool.Contents) error {
	if len(contents.SetAside)+len(contents.Unfinished) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	table := newTable(w)
	fmt.Fprintln(table, "FILE\tSIZE\tREMARK")
	for _, f := range contents.SetAside {
		fmt.Fprintf(table, "%s\t%s\tset aside because it could not be read\n", f.Name, size(f.Bytes))
	}
	for _, f := range contents.Unfinished {
		fmt.Fprintf(table, "%s\t%s\tbeing written, or left by a crash\n", f.Name, size(f.Bytes))
	}
	return table.Flush()
}

func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// size writes a number of bytes for people.
func size(bytes int64) string {
	if bytes < 1<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes), ""
	for _, unit = range []string{"KiB", "MiB", "GiB"} {
		if value /= 1 << 10; value < 1<<10 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// moment writes a wall time for people, as it was believed.
func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// printable makes a text of somebody else one line that does nothing to a terminal.
func printable(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
	return cmp.Or(text, "-")
}
