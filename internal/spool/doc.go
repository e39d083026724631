// Package spool keeps snapshots on disk between the tick that took them and the receivers that take them away.
//
// What enters: one latency.Snapshot per tick, through Spool.Append. What leaves: the same snapshots in the same order, through any
// number of named Readers, each with a durable cursor of its own, after any crash. What can go wrong: the disk is full, read-only or
// failing (Append and Commit say so and work again as soon as the disk does), bytes on it rot (what is damaged is skipped, counted and
// logged; what follows it is delivered), the bounds are reached before a receiver came (the oldest segments go, counted), another
// process has the directory (ErrLocked), or a newer latpush wrote it (ErrVersion).
//
// # Directory
//
//	00000000000000000001.seg   segment, named after its first sequence number: package segment frames, package record contents
//	NAME.cursor                what the reader NAME has delivered: one line of text with a checksum
//	lock                       empty, locked with flock(2) while a process has the spool open
//	*.seg.tmp, *.cursor.tmp    a file being made; removed at open, nothing in it was ever promised
//	*.corrupt                  a file that could not be read, set aside under this name, never deleted and never read again
//
// A new segment is begun when the active one is full and after every failure that leaves the active one in doubt. A segment that was
// left is never written again. A segment is removed whole: as soon as every reader has delivered it, or, oldest first, when the spool
// is larger than MaxBytes or the newest snapshot in it is older than MaxAge. The active segment stays.
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
// With fsync: always, a snapshot is read back after any of this if Append returned nil. One whose Append returned an error, or did
// not return, is read back whole or not at all. None is read back that was not appended. What a Reader has committed is not handed out
// again, unless its cursor file rots: then it is set aside and the reader starts again from the oldest snapshot there is.
// With fsync: never, the same holds for SIGKILL; a power cut may take the newest snapshots and cursors.
//
// Age is judged by CLOCK_BOOTTIME within a boot. Across boots the wall clock decides, as it was last believed in each boot, so a clock
// that is wrong at boot and stepped later does not make snapshots look old. See ages.
package spool
