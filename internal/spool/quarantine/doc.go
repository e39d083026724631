// Package quarantine keeps requests on disk that a receiver only ever failed at, so that the queue behind them goes on.
//
// What enters: the bodies of requests with what is known about them, through Store.Put. What leaves: the same, through List and Load, until
// Remove, also from another process while an agent runs. What can go wrong: the disk refuses (Put says so, and nothing is promised then), the
// bound is reached (the oldest requests go, counted and logged), bytes on the disk rot (ErrCorrupt; such a file is reported and never deleted
// here), or a newer latpush wrote a file (ErrVersion; likewise).
//
// # Files
//
// One for each request, named after its number, which is the ID without the zeros in front:
//
//	00000000000000000012.request      complete and synced, never written again
//	00000000000000000012.request.tmp  being made; removed by Open, nothing in it was ever promised
//
// A file is two lines of text and the body, which begins right behind the second line feed and goes on to the end of the file:
//
//	latpush-quarantine v1 93d8b724
//	{"receiver":"main","taken":"2026-11-22T18:00:00Z","content_type":"application/x-protobuf","version":"0.1.0",...}
//
// The checksum is the CRC-32C of everything behind the first line. Within a version, keys that are not known are ignored.
package quarantine
