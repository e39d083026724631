package receiver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Defaults of Options.
const (
	DefaultListen           = "127.0.0.1:9099"
	DefaultOutOfOrderWindow = time.Hour
	DefaultRetention        = 15 * 24 * time.Hour
)

// ErrNotLoopback is returned for a listen address that other hosts could reach: the receiver has no authentication.
var ErrNotLoopback = errors.New("address is not loopback")

// Options of a receiver. The zero value is usable.
type Options struct {
	// Listen is host:port on a loopback address; port 0 takes a free one. Default DefaultListen.
	Listen string
	// Directory keeps the data. Empty: a temporary folder that Close removes.
	Directory string
	// OutOfOrderWindow is how far behind the newest sample a sample may be, as Prometheus's out_of_order_time_window.
	// 0: DefaultOutOfOrderWindow. Negative: none.
	OutOfOrderWindow time.Duration
	// Retention is how long samples are kept. 0: DefaultRetention. Negative: for ever.
	Retention time.Duration
	// Log receives what the receiver and Prometheus's packages log. Nil: nothing is logged.
	Log *slog.Logger
}

// withDefaults fills in what was left at its zero value.
func (o Options) withDefaults() Options {
	if o.Listen == "" {
		o.Listen = DefaultListen
	}
	switch {
	case o.OutOfOrderWindow == 0:
		o.OutOfOrderWindow = DefaultOutOfOrderWindow
	case o.OutOfOrderWindow < 0:
		o.OutOfOrderWindow = 0
	}
	switch {
	case o.Retention == 0:
		o.Retention = DefaultRetention
	case o.Retention < 0:
		o.Retention = 0
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate reports an option that cannot work.
func (o Options) Validate() error {
	if o.Listen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("parse listen address %q: %w (want host:port, such as %s)", o.Listen, err, DefaultListen)
	}
	if host == "localhost" {
		return nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return fmt.Errorf("check listen address %q: %w (the receiver has no authentication; use 127.0.0.1, and a tunnel to reach it from elsewhere)",
			o.Listen, ErrNotLoopback)
	}
	return nil
}
