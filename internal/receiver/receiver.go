package receiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
)

const (
	readHeaderTimeout = 10 * time.Second
	shutdownTimeout   = 5 * time.Second // requests still running at Close may take this long
)

// Receiver is a running receiver. All methods may be called from several goroutines.
type Receiver struct {
	log      *slog.Logger
	folder   folder
	db       *tsdb.DB
	engine   *promql.Engine
	ledger   *ledger
	address  string
	server   *http.Server
	served   chan struct{} // closed when the server has stopped serving
	serveErr error         // why it stopped; read only after served is closed
	close    func() error  // runs once, however often Close is called
}

// Start opens the storage and serves on o.Listen. The receiver is ready when Start returns and runs until Close; ctx bounds the start alone.
// The address is taken first, so a second receiver on the same address ends with one clear error and leaves nothing behind.
func Start(ctx context.Context, o Options) (*Receiver, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	listener, err := listen(ctx, o.Listen)
	if err != nil {
		return nil, err
	}
	r, err := open(ctx, o, listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	go r.serve(listener)
	return r, nil
}

// listen opens the address, with a hint when another program has it.
func listen(ctx context.Context, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: %w (another receiver or program has this port; choose another with --web.listen-address)",
			address, syscall.EADDRINUSE)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return listener, nil
}

// open builds a receiver that does not serve yet. On an error nothing is left open or on disk.
func open(ctx context.Context, o Options, address string) (*Receiver, error) {
	f, err := makeFolder(o.Directory)
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	db, err := openStorage(f, o, reg)
	if err != nil {
		return nil, errors.Join(err, f.remove())
	}
	p := parser.NewParser(parser.Options{EnableExperimentalFunctions: true})
	r := &Receiver{
		log: o.Log, folder: f, db: db, engine: newEngine(o.Log, reg, p), ledger: newLedger(time.Now),
		address: address, served: make(chan struct{}),
	}
	if err := r.ledger.load(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("read stored series in %s: %w", f.path, err), r.release())
	}
	handler, err := r.handler(reg, p)
	if err != nil {
		return nil, errors.Join(err, r.release())
	}
	r.server = &http.Server{
		Handler: handler, ReadHeaderTimeout: readHeaderTimeout,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	r.close = sync.OnceValue(r.shutdown)
	return r, nil
}

func (r *Receiver) serve(listener net.Listener) {
	defer close(r.served)
	if err := r.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		r.serveErr = fmt.Errorf("serve on %s: %w", r.address, err)
		r.log.Error("receiver stopped serving", "err", err)
	}
}

// URL is the address of the page, such as "http://127.0.0.1:9099". Remote write goes to URL() + "/api/v1/write".
func (r *Receiver) URL() string { return "http://" + r.address }

// Done is closed when the receiver has stopped serving, through Close or because its listener failed; Close then says why.
func (r *Receiver) Done() <-chan struct{} { return r.served }

// Query evaluates one PromQL expression at one moment: a promql.Vector, promql.Matrix, promql.Scalar or promql.String.
func (r *Receiver) Query(ctx context.Context, query string, at time.Time) (parser.Value, error) {
	q, err := r.engine.NewInstantQuery(ctx, r.db, nil, query, at)
	if err != nil {
		return nil, fmt.Errorf("parse query %q: %w", query, err)
	}
	// Not closed on purpose: that would recycle the memory of the value that is returned.
	result := q.Exec(ctx)
	if result.Err != nil {
		return nil, fmt.Errorf("run query %q: %w", query, result.Err)
	}
	return result.Value, nil
}

// queryRange evaluates one PromQL expression at start, start+step, ... end.
func (r *Receiver) queryRange(ctx context.Context, query string, start, end time.Time, step time.Duration) (promql.Matrix, error) {
	q, err := r.engine.NewRangeQuery(ctx, r.db, nil, query, start, end, step)
	if err != nil {
		return nil, fmt.Errorf("parse query %q: %w", query, err)
	}
	matrix, err := q.Exec(ctx).Matrix()
	if err != nil {
		return nil, fmt.Errorf("run query %q: %w", query, err)
	}
	return matrix, nil
}

// Close stops serving, lets running requests finish for a few seconds, closes the storage and removes a temporary folder.
// Later calls return the same result.
func (r *Receiver) Close() error { return r.close() }

func (r *Receiver) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := r.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = r.server.Close()
	}
	<-r.served
	return errors.Join(r.serveErr, err, r.release())
}

// release closes the engine and the storage and removes a temporary folder.
func (r *Receiver) release() error {
	return errors.Join(r.engine.Close(), r.db.Close(), r.folder.remove())
}
