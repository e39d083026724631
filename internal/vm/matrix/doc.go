// Package matrix runs test packages inside guests with every kernel of [vm.Kernels], and a few with those of [vm.GenericKernels], one guest on each
// processor at a time.
//
// In: the table of suites in the test, each a package whose tests run in a guest of their own, with the kernel modules they want. Out: a subtest for
// every guest, and in it for every test that fails or is skipped there; a table of times, and what failed once more, at the end of the log. The
// environment chooses: LATPUSH_VM_KERNELS=6.1/amd64,newest/arm64 runs a part of the matrix, LATPUSH_VM_RUN=NFS the tests of each guest whose names
// match, and LATPUSH_VM_OUT=folder keeps the files that the guests' tests left, below folder/kernel/arch. With -short nothing runs. What can go wrong
// is said in package vm; where CI is set in the environment, a missing emulator is a failure and not a skipped test.
package matrix
