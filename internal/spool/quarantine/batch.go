package quarantine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrCorrupt is returned for a file that is not what Put wrote.
	ErrCorrupt = errors.New("damaged quarantined request")

	// ErrVersion is returned for a file of a newer latpush.
	ErrVersion = errors.New("unsupported version of a quarantined request")
)

// Batch is one request that was set apart.
type Batch struct {
	ID          string    // a number in decimal, given by Put
	Receiver    string    // whom it was for
	Taken       time.Time // when it was set apart, on the wall clock
	ContentType string    // header Content-Type
	Version     string    // header X-Prometheus-Remote-Write-Version
	Body        []byte    // as it is posted: a message, compressed as a snappy block
	Samples     int
	Series      int
	Oldest      time.Time // of the samples' timestamps
	Newest      time.Time
	Status      int    // the receiver's last answer
	Message     string // the receiver's words
}

// header is the second line of a file.
type header struct {
	Receiver    string    `json:"receiver"`
	Taken       time.Time `json:"taken"`
	ContentType string    `json:"content_type"`
	Version     string    `json:"version"`
	Samples     int       `json:"samples"`
	Series      int       `json:"series"`
	Oldest      time.Time `json:"oldest"`
	Newest      time.Time `json:"newest"`
	Status      int       `json:"status"`
	Message     string    `json:"message,omitempty"`
	Bytes       int       `json:"bytes"` // of the body, for people who look into a file
}

const (
	fileWord    = "latpush-quarantine"
	fileVersion = 1
	maxFirst    = 64 // bytes of the first line; it has fewer
)

// encode returns the contents of a file.
func encode(b *Batch) ([]byte, error) {
	text, err := json.Marshal(header{
		Receiver: b.Receiver, Taken: b.Taken.UTC(), ContentType: b.ContentType, Version: b.Version, Samples: b.Samples, Series: b.Series,
		Oldest: b.Oldest.UTC(), Newest: b.Newest.UTC(), Status: b.Status, Message: b.Message, Bytes: len(b.Body),
	})
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err) // a time after the year 9999
	}
	rest := append(append(text, '\n'), b.Body...)
	return append(fmt.Appendf(nil, "%s v%d %08x\n", fileWord, fileVersion, checksum(rest)), rest...), nil
}

// decode reads the contents of a file. The Batch has no ID, and its body is a part of the contents. The error wraps ErrCorrupt or ErrVersion.
func decode(contents []byte) (Batch, error) {
	first, _, found := bytes.Cut(contents[:min(len(contents), maxFirst)], []byte{'\n'})
	if !found {
		return Batch{}, fmt.Errorf("%w: no first line", ErrCorrupt)
	}
	rest := contents[len(first)+1:]
	fields := strings.Split(string(first), " ")
	if len(fields) != 3 || fields[0] != fileWord {
		return Batch{}, fmt.Errorf("%w: does not start with %s, a version and a checksum", ErrCorrupt, fileWord)
	}
	version, err := strconv.ParseUint(strings.TrimPrefix(fields[1], "v"), 10, 32)
	if err != nil || version == 0 {
		return Batch{}, fmt.Errorf("%w: version %q is not a number", ErrCorrupt, fields[1])
	}
	if version > fileVersion {
		return Batch{}, fmt.Errorf("%w: version %d, this latpush reads up to %d (install the newer one again)", ErrVersion, version, fileVersion)
	}
	if fields[2] != fmt.Sprintf("%08x", checksum(rest)) {
		return Batch{}, fmt.Errorf("%w: checksum does not match", ErrCorrupt)
	}
	text, body, found := bytes.Cut(rest, []byte{'\n'})
	if !found {
		return Batch{}, fmt.Errorf("%w: no header", ErrCorrupt)
	}
	var h header
	if err := json.Unmarshal(text, &h); err != nil {
		return Batch{}, fmt.Errorf("%w: read header: %w", ErrCorrupt, err)
	}
	return Batch{
		Receiver: h.Receiver, Taken: h.Taken, ContentType: h.ContentType, Version: h.Version, Body: body, Samples: h.Samples, Series: h.Series,
		Oldest: h.Oldest, Newest: h.Newest, Status: h.Status, Message: h.Message,
	}, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
