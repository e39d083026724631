// Package rig is the test bench of the way from the spool to the receiver. A made-up host takes the place of the kernel, so that what was counted is
// known to the last event, and every room behind it is the real one.
//
// What enters are options and a seed; what leaves are snapshots, what they add up to, and a line of real rooms that delivers them. What can go wrong
// in a room is returned as the room says it.
package rig
