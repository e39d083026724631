// Package spool keeps snapshots on disk between the tick that took them and the receivers that take them away.
//
// What enters: one latency.Snapshot per tick, through Spool.Append. What leaves: the same snapshots in the same order, through any number
// of named Readers, each with a durable cursor and a small state of its own, after any crash. What can go wrong: the disk is full,
// read-only or failing (snapshots are kept in memory and written as soon as it works again), bytes on it rot (what is damaged is skipped,
// counted and logged; what follows it is delivered), the spool is full before a receiver came (old snapshots are thinned), a snapshot is
// older than MaxAge (dropped, counted), another process has the directory (ErrLocked), or a newer latpush wrote it (ErrVersion).
//
// # Directory
//
//	00000000000000000001.seg   segment, named after its first sequence number: package segment frames, package record contents
//	NAME.cursor                what the reader NAME has delivered, and its state: one line of text with a checksum
//	lock                       empty, locked with flock(2) while a process has the spool open
//	*.seg.tmp, *.cursor.tmp    a file being made; removed at open, nothing in it was ever promised
//	*.corrupt                  a file that could not be read, set aside under this name, never deleted and never read again
//
// A new segment is begun when the active one is full and after every failure that leaves the active one in doubt. A segment that was left
// is never written again; thinning replaces it by another file of the same name. A segment is removed whole as soon as every reader has
// delivered it, when the newest snapshot in it is older than MaxAge, or, oldest first, when the spool is larger than MaxBytes and
// thinning cannot make room. The active segment stays. Files that were set aside are in no bound; two gauges show them.
//
// # Thinning
//
// Histograms and counters are cumulative, so a snapshot that is left out costs resolution and no counts, as long as its neighbours stay.
// At the bound of its size, the spool leaves out about every other snapshot where it is the finest for its age, and makes one segment of
// what stays of two or more. So the distance of snapshots grows roughly in proportion to their age, age being the time that the host was
// up since, and the youngest stay as they were. What is left out is decided by latency.Omittable. The guarantee is: for each series, the
// snapshots that stay give the same total increase, computed with resets found by values that go down or by start times that change, as
// all of them, and the same first and last values; the last state before a reset or the end of a series and the first one after it are
// there. It holds across reboots, map resets and label sets that come and go, for a reader that takes everything behind its cursor. Its
// limits:
//
//   - Gauges keep the values of the snapshots that stay, and no others.
//   - A label set that is missing in some snapshots and comes back without a new start may come back without the gap.
//   - Within what is left out, when an increase happened is known only to the distance of the neighbours that stay.
//   - Snapshots that cannot be left out, those at reboots and where series begin, end or reset, take their room. When the spool is full of them,
//     the oldest segment goes, counted and logged. A damaged segment is not rewritten, and goes in the same way.
//
// A step of thinning needs as much room as one segment more, which the spool keeps free of its bound. A reader that stands in a segment
// that was replaced keeps the old file on disk until it goes on.
//
// # A disk that refuses
//
// While a write fails (ENOSPC, EDQUOT, EROFS, EIO), snapshots are kept in memory, up to MaxMemory, and thinned there in the same way;
// where that does not suffice the oldest go, counted. Readers get them like any others. Each Append tries the disk again, and writes what
// is in memory before what is new. What is in memory is lost with the process.
//
// # What is assumed of the machine
//
//   - Once fsync of a file has returned without an error, its bytes up to that moment survive a power cut. Once fsync of a directory has, so
//     do the names in it. Nothing else does: without fsync, each write, each truncation and each rename may be missing afterwards, whole
//     or in part and in any order.
//   - Rename replaces a name at once: it means the old file or the new one, never neither.
//   - A failed fsync says nothing of what reached the disk, and a later one that succeeds says nothing of the earlier writes, since the
//     kernel may have dropped them. So the record is written again in a new segment.
//   - A torn write leaves any bytes within the range that was being written, and none outside it.
//   - Bytes at rest may rot, and reading them may fail. A 32-bit CRC finds it.
//   - SIGKILL of the process loses nothing that write(2) took.
//
// # What is promised
//
// With fsync: always, a snapshot is read back after any of this if Append returned nil and the disk took it, or took it later
// (latpush_spool_disk_healthy), and for what thinning left out of it, the guarantee above holds. None is read back that was not appended.
// What a Reader has committed is not handed out again, unless its cursor file rots: then it is set aside and the reader starts again from
// the oldest snapshot there is. With a duration, snapshots and commits are synced at most that long after they were made, and at Close: a
// power cut may take those of the last moments, and SIGKILL the commits. With fsync: never, the promise holds for SIGKILL; a power cut
// may take the newest snapshots and cursors. A segment that is rewritten is synced in any case.
//
// Age is judged by CLOCK_BOOTTIME within a boot. Across boots a snapshot is at least as old as the time that the host was up since; the
// wall clock counts only while the kernel says that something keeps it right (adjtimex), so a clock that is wrong at boot, or years
// ahead, makes nothing look old. On a host whose clock is never synchronised, MaxAge is therefore counted in time that it was up. See
// expired.
package spool
