package endtoend

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// front stands before a receiver and answers in its place when the test wants it to.
type front struct {
	t   *testing.T
	url string // where remote write requests go

	mu       sync.Mutex
	script   func(*arrival) *reply // called with mu held; nil: everything is passed on
	arrivals []*arrival
	answered map[int]int // by status
}

// arrival is a request that came in.
type arrival struct {
	at      time.Time
	header  http.Header
	body    []byte
	version string             // "1.0" or "2.0"
	series  map[string][]int64 // timestamps of the samples in Unix milliseconds, by metric name
}

// reply is what the front answers itself.
type reply struct {
	status int
	header map[string]string
	text   string
	stored bool // pass the request on all the same: the receiver stores it and says something else about it
}

// hangUp is the status of a reply that is none: the connection ends without one.
const hangUp = 0

// newFront starts a front before the receiver at target, a URL for remote write.
func newFront(t *testing.T, target string) *front {
	t.Helper()
	f := &front{t: t, answered: make(map[int]int)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, target) }))
	t.Cleanup(server.Close)
	f.url = server.URL + "/api/v1/write"
	return f
}

// answer changes the script. A script returns nil for what is to be passed on.
func (f *front) answer(script func(*arrival) *reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = script
}

// always answers everything with one status.
func always(status int) func(*arrival) *reply {
	return func(*arrival) *reply { return &reply{status: status, text: http.StatusText(status)} }
}

func (f *front) serve(w http.ResponseWriter, r *http.Request, target string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was killed, or cut off
	}
	a, err := readArrival(r.Header, body)
	if err != nil {
		f.t.Errorf("a request that is none: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	said := f.judge(a)
	if said == nil || said.stored {
		passed, err := f.pass(r, a, target)
		if err != nil {
			return // the test is over
		}
		if said == nil {
			said = passed
		}
	}
	f.mu.Lock()
	f.answered[said.status]++
	f.mu.Unlock()
	if said.status == hangUp {
		panic(http.ErrAbortHandler)
	}
	for name, value := range said.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(said.status)
	_, _ = io.WriteString(w, said.text)
}

func (f *front) judge(a *arrival) *reply {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arrivals = append(f.arrivals, a)
	if f.script == nil {
		return nil
	}
	return f.script(a)
}

// pass gives a request to the receiver and returns what that says.
func (f *front) pass(r *http.Request, a *arrival, target string) (*reply, error) {
	onward, err := http.NewRequestWithContext(r.Context(), r.Method, target, bytes.NewReader(a.body))
	if err != nil {
		return nil, err
	}
	onward.Header = a.header.Clone()
	response, err := http.DefaultClient.Do(onward)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	said := &reply{status: response.StatusCode, header: make(map[string]string), text: string(text)}
	for name := range response.Header {
		if strings.HasPrefix(name, "X-Prometheus-") {
			said.header[name] = response.Header.Get(name)
		}
	}
	return said, nil
}

func readArrival(header http.Header, body []byte) (*arrival, error) {
	message, err := snappy.Decode(nil, body)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	a := &arrival{at: time.Now(), header: header.Clone(), body: body, version: "1.0", series: make(map[string][]int64)}
	if strings.Contains(header.Get("Content-Type"), "proto=io.prometheus.write.v2.Request") {
		a.version = "2.0"
		return a, a.readV2(message)
	}
	return a, a.readV1(message)
}

func (a *arrival) readV1(message []byte) error {
	var request prompb.WriteRequest
	if err := request.Unmarshal(message); err != nil {
		return fmt.Errorf("unmarshal: %w", err)
	}
	for _, s := range request.Timeseries {
		for _, l := range s.Labels {
			if l.Name != "__name__" {
				continue
			}
			for _, sample := range s.Samples {
				a.series[l.Value] = append(a.series[l.Value], sample.Timestamp)
			}
			for _, histogram := range s.Histograms {
				a.series[l.Value] = append(a.series[l.Value], histogram.Timestamp)
			}
		}
	}
	return nil
}

func (a *arrival) readV2(message []byte) error {
	var request writev2.Request
	if err := request.Unmarshal(message); err != nil {
		return fmt.Errorf("unmarshal: %w", err)
	}
	for _, s := range request.Timeseries {
		for i := 0; i+1 < len(s.LabelsRefs); i += 2 {
			if request.Symbols[s.LabelsRefs[i]] != "__name__" {
				continue
			}
			name := request.Symbols[s.LabelsRefs[i+1]]
			for _, sample := range s.Samples {
				a.series[name] = append(a.series[name], sample.Timestamp)
			}
			for _, histogram := range s.Histograms {
				a.series[name] = append(a.series[name], histogram.Timestamp)
			}
		}
	}
	return nil
}

// timestamps returns those of all its samples, sorted.
func (a *arrival) timestamps() []int64 {
	var all []int64
	for timestamps := range maps.Values(a.series) {
		all = append(all, timestamps...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// samples is the number of its samples.
func (a *arrival) samples() int {
	n := 0
	for timestamps := range maps.Values(a.series) {
		n += len(timestamps)
	}
	return n
}

// got returns the requests so far, and how often each status was answered.
func (f *front) got() ([]*arrival, map[int]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.arrivals), maps.Clone(f.answered)
}

// waitAnswered waits until a status was given n times.
func (f *front) waitAnswered(t *testing.T, status, n int) {
	t.Helper()
	eventually(t, limit, func() error {
		if _, answered := f.got(); answered[status] < n {
			return fmt.Errorf("answers so far are %v, want %d of %d", answered, n, status)
		}
		return nil
	})
}
