// Package vm boots small guests with the kernels that Debian ships and runs one static Go test binary in each, under software emulation.
//
// In: a kernel (see [Harness.Kernel]) for amd64 or arm64, a test binary built by [BuildTest], the kernel modules it wants. Out: a [Result] with the
// outcome of every test that ran in the guest, the files that the tests left, and times; [Result.Report] turns what did not pass into subtests of the
// caller's test. Kernel messages and the tests' output go to the caller's log as they come.
//
// The guest is one initial file system that this package writes: a static init (guestinit), the test binary, the modules, and an NFS server from Debian
// packages of the guest's architecture; or, where it is asked for, Debian's systemd, which starts the init as a service. It has two processors, 2 GiB of
// memory, a loopback interface and no disk.
//
// What can go wrong, each with an error of its own: qemu is missing ([ErrNoQEMU]), the kernel panics or oopses ([ErrCrash]), the guest does not end in
// time ([ErrHang]), the init cannot do its work ([ErrInit]), the binary runs no test at all ([ErrNoTests]). A test that fails is no error of Run: it is
// in the result.
package vm
