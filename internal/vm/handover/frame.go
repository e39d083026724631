package handover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Kind says what a frame carries.
type Kind byte

// The kinds of frames.
const (
	KindHello  Kind = 'h' // Hello as JSON
	KindOutput Kind = 'o' // a piece of what the program printed
	KindFiles  Kind = 'f' // a piece of a tar archive of OutFolder
	KindExit   Kind = 'x' // Exit as JSON
)

// maxPayload bounds the payload of one frame, in bytes.
const maxPayload = 1 << 20

const headerLength = 5

// ErrFrame marks bytes that are no frame.
var ErrFrame = errors.New("bad frame")

// Frame is one message of the guest.
type Frame struct {
	Kind    Kind
	Payload []byte
}

// Read reads one frame. It returns io.EOF where the stream ends between two frames and io.ErrUnexpectedEOF where it ends inside one.
func Read(r io.Reader) (Frame, error) {
	var header [headerLength]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: Kind(header[0])}
	length := binary.BigEndian.Uint32(header[1:])
	switch f.Kind {
	case KindHello, KindOutput, KindFiles, KindExit:
	default:
		return Frame{}, fmt.Errorf("read frame: %w: kind is %#x", ErrFrame, header[0])
	}
	if length > maxPayload {
		return Frame{}, fmt.Errorf("read frame: %w: kind %c with %d bytes, at most %d fit", ErrFrame, f.Kind, length, maxPayload)
	}
	f.Payload = make([]byte, length)
	if _, err := io.ReadFull(r, f.Payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return f, nil
}

// Sender writes frames. Its methods may be called by several goroutines.
type Sender struct {
	mu sync.Mutex // held while a frame is written
	w  io.Writer
}

// NewSender returns a sender that writes to w.
func NewSender(w io.Writer) *Sender { return &Sender{w: w} }

// Send writes one frame in one call of w.
func (s *Sender) Send(kind Kind, payload []byte) error {
	if len(payload) > maxPayload {
		return fmt.Errorf("send frame: %w: %d bytes, at most %d fit", ErrFrame, len(payload), maxPayload)
	}
	message := make([]byte, headerLength, headerLength+len(payload))
	message[0] = byte(kind)
	binary.BigEndian.PutUint32(message[1:], uint32(len(payload)))
	message = append(message, payload...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.w.Write(message); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// SendJSON writes one frame with value as its payload.
func (s *Sender) SendJSON(kind Kind, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return s.Send(kind, payload)
}

// Stream returns a writer that sends all it is given as frames of one kind.
func (s *Sender) Stream(kind Kind) io.Writer { return stream{sender: s, kind: kind} }

type stream struct {
	sender *Sender
	kind   Kind
}

func (s stream) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		piece := p[written:min(len(p), written+maxPayload)]
		if err := s.sender.Send(s.kind, piece); err != nil {
			return written, err
		}
		written += len(piece)
	}
	return written, nil
}
