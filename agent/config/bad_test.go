package config

import (
	"strings"

	"github.com/latpush/latpush/internal/kernel"
)

// badFiles has, for each testdata/*.bad.yml, every line that `latpush check` prints for it. FILE stands for the name of the file.
func badFiles() map[string][]string {
	return map[string][]string{
		"allow_elsewhere": {
			"FILE:4: sources[0].allow: source runqueue has no allow list (remove the key)",
		},
		"bounds_descend": {
			"FILE:5: sources[0].buckets.bounds[2]: 5ms is not above the bound before it, 10ms (bounds must ascend)",
		},
		"bounds_units": {
			`FILE:7: sources[0].buckets.bounds[1]: parse duration "10 ms" (a number with a unit: ns, us, ms, s, m or h)`,
			`FILE:8: sources[0].buckets.bounds[2]: parse duration "5" (a number with a unit: ns, us, ms, s, m or h)`,
		},
		"comment": {
			"FILE:1: the file is empty",
		},
		"count_text": {
			`FILE:4: sources[0].buckets.exp2.count: expected a whole number, not "many"`,
		},
		"duplicate_key": {
			"FILE:4: interval: the key is written twice (first in line 2)",
		},
		"duplicate_nested_key": {
			"FILE:4: spool.max_age: the key is written twice (first in line 3)",
		},
		"empty": {
			"FILE:1: the file is empty",
		},
		"empty_receivers": {
			"FILE:1: remote_write: there is no receiver (add a list with the url of at least one)",
		},
		"endless_alias": {
			"FILE:2: external_labels.site: expected a text, not keys and values",
		},
		"endless_merge": {
			"FILE:3: spool: << merges a value that contains itself",
		},
		"interval_long": {
			"FILE:2: interval: 2h is not between 1s and 1h",
		},
		"interval_no_unit": {
			`FILE:2: interval: not a valid duration string: "15" (a number with a unit: ms, s, m, h, d, w or y)`,
		},
		"interval_short": {
			"FILE:2: interval: 500ms is not between 1s and 1h",
		},
		"interval_wrong_unit": {
			`FILE:2: interval: unknown unit " sec" in duration "15 sec" (a number with a unit: ms, s, m, h, d, w or y)`,
		},
		"labels": {
			"FILE:3: external_labels.site-name: the name is not valid (a letter or _ first, then letters, digits and _)",
			"FILE:4: external_labels.__hidden: names that begin with __ are reserved",
			"FILE:5: external_labels.le: this name is reserved for the bounds of histogram buckets",
			"FILE:6: external_labels.zone: the value is empty (a label without a value is the same as no label: remove the key)",
		},
		"labels_list": {
			"FILE:2: external_labels: expected keys and values, not a list",
		},
		"histogram": {
			`FILE:1: histogram: unknown form "native" (one of classic, custom and exponential)`,
			"FILE:2: clock_sync_timeout: 2d is not between 0s and 1d",
			"FILE:5: sources[0].buckets: exponential histograms need exponential buckets (write buckets: {exponential: {schema: 3, min: 100ns, max: 64s}}, or leave the key out)",
			`FILE:7: sources[1].histogram: unknown form "sparse" (one of classic, custom and exponential)`,
			"FILE:8: spool.quarantine_max_size: 0B is not above zero",
		},
		"latin1": {
			"FILE:3: invalid UTF-8 (save the file as UTF-8 without a byte order mark)",
		},
		"list_at_top": {
			"FILE:1: expected keys and values, not a list",
		},
		"many": {
			`FILE:1: interval: not a valid duration string: "soon" (a number with a unit: ms, s, m, h, d, w or y)`,
			"FILE:4: sources[0].allow: source nfs has no allow list (remove the key)",
			`FILE:5: sources[0].labels[1]: source nfs has no label "device" to choose (one of cgroup, mount, server)`,
			`FILE:6: sources[1].name: unknown source "zfs" (known are ` + strings.Join(kernel.Names(), ", ") + `)`,
			"FILE:8: sources[2].max_label_sets: -1 is not between 1 and 65536",
			"FILE:11: remote_write[0].remote_timeout: 0s is not positive",
			"FILE:12: spool.max_size: 1KiB is too small (at least 64KiB; leave it out for 64MiB)",
		},
		"max_cpu": {
			"FILE:1: max_cpu: -1% is not between 0% and 1e+06% of a CPU (0 is no bound)",
			`FILE:4: sources[0].max_cpu: "1 core" is no share of a CPU (a percentage of one, such as 1%, or a number of them, such as 0.01)`,
			"FILE:6: sources[1].max_cpu: -50% is not between 0% and 1e+06% of a CPU (0 is no bound)",
			"FILE:8: sources[2].max_cpu: expected a number, not a list",
		},
		"merge_scalar": {
			`FILE:3: spool: << merges keys and values, not "7"`,
		},
		"name_path": {
			"FILE:3: remote_write[0].name: use 1 to 128 letters, digits, - and _ (the name becomes a file name in the spool)",
		},
		"no_receiver": {
			"FILE:1: remote_write: there is no receiver (add a list with the url of at least one)",
		},
		"no_url": {
			"FILE:2: remote_write[0].url: is missing",
		},
		"no_value": {
			"FILE:2: interval: the key has no value (write one or remove the key)",
		},
		"no_way": {
			"FILE:4: sources[0].buckets: exactly one of exp2, linear, exponential and bounds is needed, not 0",
		},
		"not_a_certificate": {
			"FILE:4: remote_write[0].tls_config.ca_file: unable to use specified CA cert file testdata/secrets/password",
		},
		"password_file_missing": {
			"FILE:3: remote_write[0].basic_auth.password_file: open testdata/secrets/missing: no such file or directory",
		},
		"password_misplaced": {
			"FILE:3: remote_write[0].basic_auth: expected keys and values, not a single value",
		},
		"password_twice": {
			"FILE:3: remote_write[0].basic_auth: at most one of basic_auth password, password_file & password_ref must be configured",
		},
		"pin_path": {
			`FILE:2: pin_path: "latpush" does not begin with / (name a directory on a BPF file system, such as /sys/fs/bpf/latpush, or "" to pin nothing)`,
		},
		"receiver_types": {
			`FILE:3: remote_write[0].remote_timeout: not a valid duration string: "30" (a number with a unit: ms, s, m, h, d, w or y)`,
			"FILE:4: remote_write[0].follow_redirects: expected true or false, not a single value",
		},
		"reserved_header": {
			"FILE:3: remote_write[0].headers.Content-Type: this header is reserved (latpush sets it)",
		},
		"confinement": {
			`FILE:3: confinement.landlock: expected true or false, not "maybe"`,
			"FILE:4: confinement.seccmp: unknown key (did you mean seccomp?)",
		},
		"same_name": {
			"FILE:5: remote_write[1].name: name main is given twice (first in line 2)",
		},
		"same_url": {
			"FILE:3: remote_write[1].name: two receivers have the same url and no name (the first is in line 2; give each a name of its own)",
		},
		"shutdown_long": {
			"FILE:2: shutdown_timeout: 1h is not between 0s and 10m",
		},
		"similar_keys": {
			"FILE:2: spool_size: unknown key (known are clock_sync_timeout, confinement, external_labels, histogram, interval, max_cpu, pin_path, remote_write, shutdown_timeout, sources, spool)",
			`FILE:3: spool.fsync: "sometimes" is unknown (always, never or a duration such as 10s)`,
		},
		"source_scalar": {
			`FILE:3: sources[0]: expected keys and values, not "nfs"`,
		},
		"source_twice": {
			"FILE:5: sources[2].name: source nfs is listed twice (first in line 3)",
		},
		"source_unknown": {
			`FILE:3: sources[0].name: unknown source "ext4" (known are ` + strings.Join(kernel.Names(), ", ") + `)`,
		},
		"source_unnamed": {
			"FILE:3: sources[0].name: a source needs a name (one of " + strings.Join(kernel.Names(), ", ") + ")",
		},
		"sources_empty": {
			"FILE:2: sources: the list is empty (remove the key to run the default set)",
		},
		"sources_scalar": {
			`FILE:2: sources: unknown set "nfs" (default, all, or a list of sources)`,
		},
		"spool_directory": {
			"FILE:3: spool.directory: must be set (a directory of its own, such as /var/lib/latpush)",
		},
		"spool_fsync": {
			`FILE:3: spool.fsync: "sometimes" is unknown (always, never or a duration such as 10s)`,
		},
		"spool_size": {
			`FILE:2: spool.max_size: "64 megs" is no size (a number with a unit: KiB, MiB or GiB)`,
		},
		"syntax": {
			"FILE:2: could not find expected ':'",
		},
		"syscall_unknown": {
			`FILE:6: sources[0].allow[1]: unknown system call "opennat" on x86_64`,
			"FILE:7: sources[0].allow[2]: system call exit_group never returns, so it has no latency (remove it)",
		},
		"tab": {
			"FILE:2: found a tab character that violates indentation",
		},
		"too_many_bounds": {
			"FILE:5: sources[0].buckets.bounds: 513 buckets (between 1 and 512 are possible)",
		},
		"too_many_buckets": {
			"FILE:5: sources[0].buckets.linear.count: 513 buckets (between 1 and 512 are possible)",
		},
		"two_documents": {
			"FILE:2: a second YAML document (only one is read, remove the line ---)",
		},
		"two_ways": {
			"FILE:4: sources[0].buckets: exactly one of exp2, linear, exponential and bounds is needed, not 2",
		},
		"unknown_anchor": {
			"FILE:4: unknown anchor 'coarse' referenced",
		},
		"unknown_key_close": {
			"FILE:2: intervall: unknown key (did you mean interval?)",
		},
		"unknown_key_far": {
			"FILE:2: scrape_configs: unknown key (known are clock_sync_timeout, confinement, external_labels, histogram, interval, max_cpu, pin_path, remote_write, shutdown_timeout, sources, spool)",
		},
		"unknown_nested_key": {
			"FILE:4: remote_write[0].tls_config.ca_fil: unknown key (did you mean ca_file?)",
		},
		"unknown_receiver_key": {
			"FILE:3: remote_write[0].sigv4: not supported: latpush does not sign requests for AWS (send to a signing proxy on this host by url or proxy_url)",
			"FILE:4: remote_write[0].queue_config.max_shards: not supported: latpush sends the requests of a receiver one after the other, in order, so there are no shards (remove the key)",
			"FILE:5: remote_write[0].write_relabel_config: unknown key (did you mean write_relabel_configs?)",
			"FILE:6: remote_write[0].histograms: unknown key (known are authorization, basic_auth, bearer_token, bearer_token_file, enable_http2, follow_redirects, headers, http_headers, idle_interval, max_bytes_per_day, max_bytes_per_second, metadata_config, name, no_proxy, oauth2, protobuf_message, proxy_connect_header, proxy_from_environment, proxy_url, push_interval, quarantine_after, queue_config, remote_timeout, send_native_histograms, stale_markers, tls_config, url, write_relabel_configs)",
		},
		"unknown_source_key": {
			"FILE:4: sources[0].bucket: unknown key (did you mean buckets?)",
		},
		"url_password": {
			"FILE:2: remote_write[0].url: not a valid URL (write special characters in user names and passwords as %XX)",
		},
		"url_scheme": {
			`FILE:2: remote_write[0].url: the scheme is "ftp" (use http or https)`,
		},
	}
}
