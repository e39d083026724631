package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/common/version"
	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool/quarantine"
	"github.com/latpush/latpush/internal/upload"
)

// quarantine prints the requests that were set apart.
func (s *spoolCommand) quarantine() error {
	directory, err := s.spoolDirectory()
	if err != nil {
		return err
	}
	entries, err := quarantine.List(filepath.Join(directory, quarantine.Folder))
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		fmt.Fprintln(s.stdout, "The quarantine is empty.")
		return nil
	}
	return printQuarantine(s.stdout, entries)
}

func printQuarantine(w io.Writer, entries []quarantine.Entry) error {
	table := newTable(w)
	fmt.Fprintln(table, "ID\tRECEIVER\tSET APART\tSIZE\tSERIES\tSAMPLES\tOLDEST\tNEWEST\tSTATUS\tMESSAGE")
	for i := range entries {
		e := &entries[i]
		if e.Err != nil {
			fmt.Fprintf(table, "%s\t-\t-\t%s\t-\t-\t-\t-\t-\t%s\n", e.ID, size(e.Size), printable(e.Err.Error()))
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%d\t%s\n", e.ID, printable(e.Receiver), moment(e.Taken), size(e.Size),
			e.Series, e.Samples, moment(e.Oldest), moment(e.Newest), e.Status, printable(e.Message))
	}
	return table.Flush()
}

// everything in the place of numbers means all requests.
const everything = "all"

// replay sends quarantined requests to the receivers that they were for.
func (s *spoolCommand) replay() error {
	loaded, err := config.Load(s.configFile, identity.Read())
	if err != nil {
		return err
	}
	r := &replayer{
		directory: filepath.Join(cmp.Or(s.directory, loaded.Spool.Directory), quarantine.Folder), configs: loaded.RemoteWrite,
		clients: make(map[string]*upload.Client), blocked: make(map[string]string),
	}
	defer r.close()
	chosen, err := s.choose(r.directory, loaded.RemoteWrite)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	failed := 0
	for i := range chosen {
		result, accepted := r.send(ctx, &chosen[i])
		if !accepted {
			failed++
			result = "stays: " + result
		}
		fmt.Fprintf(s.stdout, "request %s: %s\n", chosen[i].ID, result)
	}
	if failed > 0 {
		return fmt.Errorf("replay quarantine: %d of %d requests were not accepted and stay there", failed, len(chosen))
	}
	if len(chosen) == 0 {
		fmt.Fprintln(s.stdout, "There is nothing to replay.")
	}
	return nil
}

// choose returns the requests that the command line names, oldest first.
func (s *spoolCommand) choose(directory string, configs []upload.Config) ([]quarantine.Entry, error) {
	if s.receiver != "" && !slices.ContainsFunc(configs, func(c upload.Config) bool { return c.Name == s.receiver }) {
		return nil, fmt.Errorf("receiver %q is not in %s", s.receiver, s.configFile)
	}
	entries, err := quarantine.List(directory)
	if err != nil {
		return nil, err
	}
	all := slices.Contains(s.ids, everything)
	if all && len(s.ids) > 1 {
		return nil, errors.New("name either numbers of requests or all, not both")
	}
	for _, id := range s.ids {
		if !all && !slices.ContainsFunc(entries, func(e quarantine.Entry) bool { return e.ID == id }) {
			return nil, fmt.Errorf("there is no quarantined request %q (`latpush spool quarantine` lists them)", id)
		}
	}
	return slices.DeleteFunc(entries, func(e quarantine.Entry) bool {
		return !all && !slices.Contains(s.ids, e.ID) || s.receiver != "" && e.Receiver != s.receiver
	}), nil
}

// replayer sends requests with the clients of their receivers.
type replayer struct {
	directory string
	configs   []upload.Config
	clients   map[string]*upload.Client // by name of the receiver
	blocked   map[string]string         // by name: why no other request would be accepted either
}

func (r *replayer) close() {
	for _, client := range r.clients {
		client.Close()
	}
}

// send sends one request, and removes it if it is accepted. The result is for people.
func (r *replayer) send(ctx context.Context, e *quarantine.Entry) (result string, accepted bool) {
	batch, err := quarantine.Load(r.directory, e.ID)
	if err != nil {
		return printable(err.Error()), false
	}
	if why, blocked := r.blocked[batch.Receiver]; blocked {
		return "not sent: " + why, false
	}
	client, err := r.client(batch.Receiver)
	if err != nil {
		return err.Error(), false
	}
	answer := client.Send(ctx, promwire.Request{
		Body: batch.Body, ContentType: batch.ContentType, Version: batch.Version, Protocol: protocolOf(&batch),
		Samples: batch.Samples, Series: batch.Series, Oldest: batch.Oldest, Newest: batch.Newest,
	})
	if answer.Verdict != upload.Accepted {
		result = fmt.Sprintf("%s: %s", answer.Verdict, printable(answer.Err.Error()))
		if answer.Status == 0 || answer.Verdict == upload.Unauthorized {
			r.blocked[batch.Receiver] = "receiver " + batch.Receiver + " did not take the one before: " + result
		}
		return result, false
	}
	// It may be gone already: the agent drops the oldest ones when the quarantine is full.
	if err := quarantine.Remove(r.directory, e.ID); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "accepted, but not removed: " + err.Error(), false
	}
	result = fmt.Sprintf("accepted by %s with status %d", batch.Receiver, answer.Status)
	if w := answer.Written; w != nil && w.Samples+w.Histograms < batch.Samples {
		result += fmt.Sprintf(", which says that it has written %d of %d samples", w.Samples+w.Histograms, batch.Samples)
	}
	return result, true
}

// client returns the client of a receiver.
func (r *replayer) client(receiver string) (*upload.Client, error) {
	if client, made := r.clients[receiver]; made {
		return client, nil
	}
	i := slices.IndexFunc(r.configs, func(c upload.Config) bool { return c.Name == receiver })
	if i < 0 {
		return nil, fmt.Errorf("its receiver %q is not in the configuration any more (give a receiver that name)", receiver)
	}
	// The results say all that there is to say; the client's log is written for an agent, whose samples wait.
	client, err := upload.New(r.configs[i], cmp.Or(version.Version, "unknown"), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, fmt.Errorf("make client of receiver %s: %w", receiver, err)
	}
	r.clients[receiver] = client
	return client, nil
}

// protocolOf returns the message of a request that is stored without it.
func protocolOf(batch *quarantine.Batch) promwire.Protocol {
	if strings.Contains(batch.ContentType, string(promwire.V2)) {
		return promwire.V2
	}
	return promwire.V1
}
