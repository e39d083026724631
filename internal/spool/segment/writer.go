package segment

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
)

// File is what a segment needs of an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
}

// Writer appends frames to one segment. For one goroutine at a time, except that another may call Sync meanwhile.
type Writer struct {
	name   string
	file   File
	header Header
	end    int64 // end of the last frame that was appended whole
	sync   bool
	spoilt bool

	syncing sync.Mutex // held while the file is synced
	failed  error      // of the first sync that failed; guarded by syncing
}

// Create writes the file header to an empty file. With sync, it is on disk when Create returns, and so is every record when Append
// returns. The name is for errors.
func Create(name string, file File, header Header, sync bool) (*Writer, error) {
	w := &Writer{name: name, file: file, header: header, end: HeaderSize, sync: sync}
	if _, err := file.WriteAt(header.Append(nil), 0); err != nil {
		return nil, fmt.Errorf("write header of segment %s: %w", name, err)
	}
	if err := w.flush(); err != nil {
		return nil, err
	}
	return w, nil
}

// Resume continues a segment behind its last good frame, at offset end. What follows there is cut off.
func Resume(name string, file File, header Header, end int64, sync bool) (*Writer, error) {
	w := &Writer{name: name, file: file, header: header, end: end, sync: sync}
	if err := file.Truncate(end); err != nil {
		return nil, fmt.Errorf("cut torn tail of segment %s at offset %d: %w", name, end, err)
	}
	if err := w.flush(); err != nil {
		return nil, err
	}
	return w, nil
}

// Size returns the length of the segment in bytes.
func (w *Writer) Size() int64 { return w.end }

// Append writes one frame. The payload starts at frame[FrameSize:]; the bytes before it are filled in. When it returns an error, the
// file is cut back to where it was and Append may be called again, unless Usable says otherwise. The error wraps ErrSync when the
// write went well and the sync did not.
func (w *Writer) Append(frame []byte, sequence uint64) (Location, error) {
	w.header.Seal(frame, sequence)
	at := Location{Sequence: sequence, Offset: w.end, Length: len(frame)}
	if _, err := w.file.WriteAt(frame, w.end); err != nil {
		// A full disk is expected to have room again; after any other error the place itself is suspect.
		full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
		w.spoilt = w.spoilt || !full
		return Location{}, w.cutBack(fmt.Errorf("write segment %s at offset %d: %w", w.name, w.end, err))
	}
	if err := w.flush(); err != nil {
		w.spoilt = true
		return Location{}, w.cutBack(err)
	}
	w.end += int64(len(frame))
	return at, nil
}

// Usable reports whether Append may be called again. It may not when a sync failed, when a write failed for another reason than a
// full disk, or when a torn frame could not be cut off.
func (w *Writer) Usable() bool { return !w.spoilt }

// Sync forces to disk what was appended. Once it has failed it always does, since a later sync says nothing of what the failed one left. The
// error wraps ErrSync.
func (w *Writer) Sync() error {
	w.syncing.Lock()
	defer w.syncing.Unlock()
	if w.failed != nil {
		return w.failed
	}
	if err := w.file.Sync(); err != nil {
		w.failed = fmt.Errorf("%w %s: %w", ErrSync, w.name, err)
	}
	return w.failed
}

// Close closes the file.
func (w *Writer) Close() error { return w.file.Close() }

func (w *Writer) flush() error {
	if !w.sync {
		return nil
	}
	return w.Sync()
}

// cutBack removes a frame that is not to be, and returns the error that was the reason.
func (w *Writer) cutBack(reason error) error {
	if err := w.file.Truncate(w.end); err != nil {
		w.spoilt = true
		return errors.Join(reason, fmt.Errorf("cut segment %s back to offset %d: %w", w.name, w.end, err))
	}
	return reason
}
