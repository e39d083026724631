package upload_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/upload"
)

// authority signs certificates for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key, a.pem, _ = a.sign(t, template)
	return a
}

// sign makes a key and a certificate for it, which is the authority's own if it has none yet.
func (a *authority) sign(t testing.TB, template *x509.Certificate) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// caFile writes the authority's certificate.
func (a *authority) caFile(t testing.TB) string { return writeFile(t, "ca.pem", string(a.pem)) }

// clientFiles makes a client certificate.
func (a *authority) clientFiles(t testing.TB) (certFile, keyFile string) {
	t.Helper()
	_, _, certPEM, keyPEM := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "edge-7"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return writeFile(t, "client.pem", string(certPEM)), writeFile(t, "client.key", string(keyPEM))
}

// server starts a TLS server on loopback that demands a certificate of this authority from its clients if mutual.
func (a *authority) server(t testing.TB, mutual bool, handler http.Handler) *httptest.Server {
	t.Helper()
	_, _, certPEM, keyPEM := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "receiver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"receiver.example"},
	})
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if mutual {
		s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		s.TLS.ClientCAs.AddCert(a.cert)
	}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

// request is what the tests send.
func request() promwire.Request {
	return promwire.Request{
		Body: []byte("a snappy block"), ContentType: "application/x-protobuf", Version: "0.1.0", Protocol: promwire.V1, Samples: 30, Series: 30,
		Oldest: time.UnixMilli(1_763_800_000_000), Newest: time.UnixMilli(1_763_800_000_000),
	}
}

// request2 is a request of remote write 2.0.
func request2() promwire.Request {
	r := request()
	r.ContentType, r.Version, r.Protocol = "application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0", promwire.V2
	r.Histograms = 4
	return r
}

// logbook keeps log lines.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines gives the lines above debug.
func (l *logbook) lines(t testing.TB) []map[string]any {
	t.Helper()
	var all []map[string]any
	d := json.NewDecoder(strings.NewReader(l.String()))
	for {
		var line map[string]any
		err := d.Decode(&line)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if line["level"] != "DEBUG" {
			all = append(all, line)
		}
	}
}

// sender is a Client with what it logs and counts.
type sender struct {
	*upload.Client
	log      *logbook
	registry *prometheus.Registry
}

// newSender makes a Client for a URL. Backoffs are short, since the tests with real servers wait for them.
func newSender(t testing.TB, url string, change func(*upload.Config)) *sender {
	t.Helper()
	c := upload.DefaultConfig()
	c.URL, c.Name = mustURL(t, url), "central"
	if change != nil {
		change(&c)
	}
	s := &sender{log: &logbook{}, registry: prometheus.NewPedanticRegistry()}
	client, err := upload.New(c, "1.2.3", slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), s.registry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s.Client = client
	return s
}

// wantNoSecret demands that the texts are nowhere in what the sender said.
func (s *sender) wantNoSecret(t testing.TB, a upload.Answer, secrets ...string) {
	t.Helper()
	said := s.log.String() + "\n" + a.Message + "\n"
	if a.Err != nil {
		said += a.Err.Error()
	}
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		said += f.String()
	}
	for _, secret := range secrets {
		if strings.Contains(said, secret) {
			t.Errorf("%q is in\n%s", secret, said)
		}
	}
}

// sumOf adds up the series of a counter.
func sumOf(t testing.TB, g prometheus.Gatherer, name string) int {
	t.Helper()
	return int(labelled(t, g, name, "", ""))
}

// labelled adds up the series of a counter that have a label of this value; all if the label is "".
func labelled(t testing.TB, g prometheus.Gatherer, name, label, value string) (sum float64) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == label && l.GetValue() == value }) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
