// Package guest holds what tests do inside a guest of package vm: load modules, serve and mount NFS over the loopback interface, slow it down, make a
// block device of known latency, do an exactly known number of file operations, and read the kernel's own counts of them.
//
// In: the root of a guest whose init is guestinit. Out: kernel operations, and counts to compare with. What can go wrong: a module that the guest was
// not given (GuestOptions.Provide of package vm), a server that does not come up in time, an operation that the kernel refuses. Nothing here is meant
// for any other machine: the functions load modules, mount file systems and change the loopback interface.
package guest
