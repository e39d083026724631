// Command latpush-receiver is the receiver of `make run`: a small Prometheus on a loopback address that takes remote write 1.0 and 2.0,
// answers PromQL, and draws what it received as a live heatmap.
//
// What enters: flags, remote write requests. What leaves: the page's address on standard output once it is ready, with --summary a table
// of all histograms every few seconds, logs on standard error. It stops with exit code 0 on SIGINT and SIGTERM, and with 1 when it cannot
// start or its listener fails.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"

	"github.com/latpush/latpush/internal/receiver"
)

// flags of the command.
type flags struct {
	listen          string
	path            string
	window          model.Duration
	retention       model.Duration
	summary         bool
	summaryInterval time.Duration
	log             promslog.Config
}

func parseFlags(args []string) (*flags, error) {
	f := &flags{
		window:    model.Duration(receiver.DefaultOutOfOrderWindow),
		retention: model.Duration(receiver.DefaultRetention),
	}
	app := kingpin.New("latpush-receiver", "Receives remote write on a loopback address and draws histograms as live heatmaps.")
	app.HelpFlag.Short('h')
	app.Flag("web.listen-address", "Loopback address to serve on; port 0 takes a free one.").
		Default(receiver.DefaultListen).StringVar(&f.listen)
	app.Flag("storage.path", "Folder for the samples. Without it a temporary folder is used and removed at exit.").StringVar(&f.path)
	app.Flag("storage.out-of-order-window", "How far behind the newest sample a sample may be. 0s: not at all. (default: "+f.window.String()+")").
		PlaceHolder("DURATION").SetValue(&f.window)
	app.Flag("storage.retention", "How long samples are kept. 0s: for ever. (default: "+f.retention.String()+")").
		PlaceHolder("DURATION").SetValue(&f.retention)
	app.Flag("summary", "Print a table of all histograms again and again.").BoolVar(&f.summary)
	app.Flag("summary.interval", "Time between two tables.").Default("5s").DurationVar(&f.summaryInterval)
	promslogflag.AddFlags(app, &f.log)
	if _, err := app.Parse(args); err != nil {
		return nil, fmt.Errorf("parse flags: %w (see --help)", err)
	}
	if f.summaryInterval <= 0 {
		return nil, fmt.Errorf("parse flags: --summary.interval is %v, want more than 0", f.summaryInterval)
	}
	return f, nil
}

// options turns the flags' "0: none" into the library's "negative: none".
func (f *flags) options(log *slog.Logger) receiver.Options {
	o := receiver.Options{
		Listen: f.listen, Directory: f.path, Log: log,
		OutOfOrderWindow: time.Duration(f.window), Retention: time.Duration(f.retention),
	}
	if o.OutOfOrderWindow == 0 {
		o.OutOfOrderWindow = -1
	}
	if o.Retention == 0 {
		o.Retention = -1
	}
	return o
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "latpush-receiver:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, stdout *os.File, stderr io.Writer) error {
	f, err := parseFlags(args)
	if err != nil {
		return err
	}
	f.log.Writer = stderr
	r, err := receiver.Start(ctx, f.options(promslog.New(&f.log)))
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, r.URL())
	if f.summary {
		printSummaries(ctx, r, newScreen(stdout), f.summaryInterval)
	}
	select {
	case <-ctx.Done():
	case <-r.Done():
	}
	return r.Close()
}
