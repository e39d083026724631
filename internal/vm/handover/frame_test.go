package handover

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	t.Parallel()
	var wire bytes.Buffer
	s := NewSender(&wire)
	exit := Exit{Code: 2, Error: "no port"}
	large := strings.Repeat("x", maxPayload+1)
	for _, err := range []error{
		s.Send(KindHello, []byte("{}")),
		second(io.WriteString(s.Stream(KindOutput), large)),
		s.Send(KindFiles, nil),
		s.SendJSON(KindExit, exit),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var kinds []Kind
	var lengths []int
	var last Frame
	for {
		f, err := Read(&wire)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds, lengths, last = append(kinds, f.Kind), append(lengths, len(f.Payload)), f
	}
	if want := []Kind{KindHello, KindOutput, KindOutput, KindFiles, KindExit}; !reflect.DeepEqual(kinds, want) {
		t.Errorf("kinds %q, want %q", kinds, want)
	}
	if want := []int{2, maxPayload, 1, 0}; !reflect.DeepEqual(lengths[:4], want) {
		t.Errorf("lengths %d, want %d", lengths[:4], want)
	}
	var got Exit
	if err := json.Unmarshal(last.Payload, &got); err != nil || got != exit {
		t.Errorf("exit %+v, %v, want %+v", got, err, exit)
	}
}

func second(_ int, err error) error { return err }

func TestReadErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		wire string
		want error
	}{
		{"the end", "", io.EOF},
		{"cut in the header", "o\x00\x00", io.ErrUnexpectedEOF},
		{"cut after the header", "o\x00\x00\x00\x02", io.ErrUnexpectedEOF},
		{"cut in the payload", "o\x00\x00\x00\x02a", io.ErrUnexpectedEOF},
		{"another kind", "?\x00\x00\x00\x00", ErrFrame},
		{"too long", "o\x00\x10\x00\x01", ErrFrame},
	} {
		if _, err := Read(strings.NewReader(tt.wire)); !errors.Is(err, tt.want) {
			t.Errorf("%s: error is %v, want %v", tt.name, err, tt.want)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestSendErrors(t *testing.T) {
	t.Parallel()
	s := NewSender(failing{})
	if err := s.Send(KindOutput, make([]byte, maxPayload+1)); !errors.Is(err, ErrFrame) {
		t.Errorf("a payload that is too long gives %v, want %v", err, ErrFrame)
	}
	if n, err := s.Stream(KindOutput).Write([]byte("x")); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a port that is closed gives %d, %v, want 0, %v", n, err, io.ErrClosedPipe)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("h\x00\x00\x00\x02{}x\x00\x00\x00\x00"))
	f.Add([]byte("o\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := bytes.NewReader(wire)
		var again bytes.Buffer
		s := NewSender(&again)
		for {
			f, err := Read(r)
			if err != nil {
				break
			}
			if err := s.Send(f.Kind, f.Payload); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(wire, again.Bytes()) {
			t.Errorf("frames that were read are written as %q, not as %q", again.Bytes(), wire)
		}
	})
}
