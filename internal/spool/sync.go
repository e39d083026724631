package spool

import (
	"bytes"
	"time"

	"github.com/latpush/latpush/internal/spool/segment"
)

// awaitSync keeps a snapshot that is in the active segment until it is synced.
func (s *Spool) awaitSync(h loose) {
	h.frame = bytes.Clone(h.frame)
	s.unsynced = append(s.unsynced, h)
	s.syncLater()
}

// syncLater makes sure that there will be a sync when Fsync's duration is over.
func (s *Spool) syncLater() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil && !s.closed {
		s.timer = time.AfterFunc(s.policy.delay, s.syncNow)
	}
}

// syncNow makes durable what was appended and committed. Append does not wait for it.
func (s *Spool) syncNow() {
	s.appending.Lock()
	writer, count := s.writer, len(s.unsynced)
	s.appending.Unlock()
	if writer != nil && count > 0 {
		s.settle(writer, count)
	}
	known := s.cursorsFail()
	err := s.saveCursors()
	if err != nil && !known {
		s.log.Warn("progress cannot be stored, snapshots will be handed out again after a restart", "err", err)
	}
	s.appending.Lock()
	defer s.appending.Unlock()
	// Until here the timer has kept another sync from beginning.
	s.mu.Lock()
	s.timer = nil
	more := len(s.unsynced) > 0 || s.cursorsBehind()
	s.mu.Unlock()
	if more {
		s.syncLater()
	}
}

// settle syncs a segment, and with it the first count of the snapshots that are not synced.
func (s *Spool) settle(writer *segment.Writer, count int) {
	err := writer.Sync()
	s.appending.Lock()
	defer s.appending.Unlock()
	if writer != s.writer {
		return // it was left in the meantime, which looks after what is not synced
	}
	if err == nil {
		s.unsynced = s.unsynced[count:]
		return
	}
	s.takeBack(err)
	s.leave()
	if err := s.write(nil); err != nil {
		s.refuse(err)
	}
}
