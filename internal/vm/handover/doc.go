// Package handover is what the host and the init of a guest say to each other: a manifest that goes in, and frames that come out.
//
// In: a [Manifest], a file of the guest's initial file system. Out: [Frame] values on a virtio serial port, so that kernel messages, which share the
// console with everything else, never get into the output of a test. One frame is
//
//	byte 0      kind
//	bytes 1-4   length of the payload, big endian
//	bytes 5-    payload
//
// and a guest that ends well sends exactly one Hello first and one Exit last. What can go wrong: a stream that ends in the middle of a frame because
// the guest died, and a frame that no guest would send.
package handover
