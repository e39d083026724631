package sender

import (
	"context"
	"log/slog"
	"time"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/quarantine"
	"github.com/latpush/latpush/internal/upload"
)

// Reader is a durable cursor in the spool. *spool.Reader is one. The snapshots that it gives belong to the sender.
type Reader interface {
	Next(ctx context.Context) (*latency.Snapshot, spool.Position, error)
	TryNext() (*latency.Snapshot, spool.Position, bool, error)
	Commit(p spool.Position, state []byte) error
	State() []byte
	Rewind()
}

// Encoder turns snapshots into requests. *promwire.Encoder is one.
type Encoder interface {
	Encode(p promwire.Protocol, snapshots ...*latency.Snapshot) ([]promwire.Request, error)
	Accept()
	Stale(p promwire.Protocol, at time.Time) ([]promwire.Request, error)
	MetadataRequests() ([]promwire.Request, error)
	Halve(r promwire.Request) ([]promwire.Request, error)
}

// Client delivers a request, however long it takes. *upload.Client is one.
type Client interface {
	// Deliver asks again, which may be nil, before each attempt after the first.
	Deliver(ctx context.Context, r promwire.Request, patience time.Duration, again func(context.Context) error) (upload.Answer, error)
	Send(ctx context.Context, r promwire.Request) upload.Answer
	Refuse(r promwire.Request, a upload.Answer)
	// Bytes estimates what an attempt costs on the wire.
	Bytes(r promwire.Request) int
	// Transferred is how many bytes the link has carried for this client, both ways, repeated attempts included.
	Transferred() int64
}

// Quarantine keeps the requests that are set apart. *quarantine.Store is one.
type Quarantine interface {
	Put(b quarantine.Batch) error
}

// Clock is the wall clock and what is known about its errors. It is safe for concurrent use.
type Clock interface {
	// Now returns the present wall time.
	Now() time.Time
	// Settle returns the best estimate of the wall time at which a snapshot was taken. It changes when the clock is stepped.
	Settle(taken latency.Instant) time.Time
	// WaitSync returns true as soon as the clock is right or was waited for long enough, and false if ctx ends before.
	WaitSync(ctx context.Context) bool
}

// Budget bounds what is sent over a metered link. *budget.Budget is one.
type Budget interface {
	// Stride returns n when one of every n snapshots is to be sent, 1 for all, if one is taken every interval.
	Stride(interval time.Duration) int
	// Wait waits until that many bytes may be sent. The error is that ctx ended, or budget.ErrTooLarge.
	Wait(ctx context.Context, bytes int) error
	// Spent says that bytes were sent or received, with permission or without.
	Spent(bytes int)
	// Sent says that what was spent since the last call has carried so many snapshots.
	Sent(snapshots int)
	// State is what a Budget is made from after a restart.
	State() budget.State
}

// Options are what a sender is made from. All fields but Quarantine, NewBudget and Limits are needed.
type Options struct {
	Name    string // of the receiver, as in its metrics
	Reader  Reader
	Encoder Encoder // the sender's own
	Client  Client  // the sender's own
	Clock   Clock

	// Quarantine takes requests that get nothing but 5xx. With nil they are tried for ever.
	Quarantine Quarantine
	// NewBudget makes the budget that goes on from a state, at the beginning of Run. It is nil for a link that is not metered.
	NewBudget func(from budget.State) Budget

	Settings Settings
	Limits   Limits
	Metrics  *Metrics // shared by the senders of all receivers
	Log      *slog.Logger
}

// Settings are what a configuration says about one receiver.
type Settings struct {
	// Interval is the time from one snapshot to the next.
	Interval time.Duration
	// Protocol is the one to begin with. V2 falls back to V1 for a receiver that does not know it.
	Protocol promwire.Protocol
	// PushInterval is the time from one push to the next; what is taken in between is collected. 0 sends each snapshot at once.
	PushInterval time.Duration
	// SampleAgeLimit drops what is older when its turn comes. 0 is no limit.
	SampleAgeLimit time.Duration
	// QuarantineAfter is how long a request may get nothing but 5xx before it is set apart, even if no other one is accepted. 0 is no bound.
	QuarantineAfter time.Duration
	// MetadataInterval is the time from one sending of metadata to the next, with remote write 1.0. 0 sends none.
	MetadataInterval time.Duration
	// StaleMarkers ends all series when the sender has drained.
	StaleMarkers bool
}

// SettingsOf returns the settings in an entry of remote_write, for snapshots that are taken every interval.
func SettingsOf(c *upload.Config, interval time.Duration) Settings {
	s := Settings{
		Interval: interval, Protocol: c.ProtobufMessage, PushInterval: c.Collect(interval), StaleMarkers: c.StaleMarkers,
		SampleAgeLimit: time.Duration(c.QueueConfig.SampleAgeLimit), QuarantineAfter: time.Duration(c.QuarantineAfter),
	}
	if c.MetadataConfig.Send {
		s.MetadataInterval = time.Duration(c.MetadataConfig.SendInterval)
	}
	return s
}

// Limits bound what a sender holds in memory and how it waits. The zero Limits are the defaults.
type Limits struct {
	// MaxSnapshots is how many pending snapshots are put in one batch. The default is 64: sixteen minutes at the default interval.
	MaxSnapshots int
	// MaxSamples is the number of sample lines from which on no further snapshot is put in a batch. The default is 100000, so that four ticks of 1,000 label
	// sets of 27 buckets share their requests, which takes less than half the bytes: some 3 MB in memory.
	MaxSamples int
	// MinPause and MaxPause bound the wait after an error of the spool, which doubles each time. The defaults are 1 s and 1 min.
	MinPause, MaxPause time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.MaxSnapshots == 0 {
		l.MaxSnapshots = 64
	}
	if l.MaxSamples == 0 {
		l.MaxSamples = 100_000
	}
	if l.MinPause == 0 {
		l.MinPause = time.Second
	}
	if l.MaxPause == 0 {
		l.MaxPause = time.Minute
	}
	return l
}
