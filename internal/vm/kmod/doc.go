// Package kmod chooses kernel modules on the host and loads them in the guest.
//
// In, on the host: the module folder of an unpacked kernel package, plain or compressed with xz or zstd, without the files that depmod writes, and the
// names of the wanted modules. Out: an [Index] of them and of all they depend on, and their contents, unpacked. In the guest [Index.Load] takes the
// same index and loads a module after those it depends on, as modprobe does.
//
// What can go wrong: a module that the kernel package neither has as a file nor lists as built in, a damaged file, a module that the kernel refuses.
package kmod
