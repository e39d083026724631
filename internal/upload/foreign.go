package upload

// ForeignKey tells why latpush does not have a key that Prometheus has in remote_write or below, and what to do instead. known is false for any other key.
func ForeignKey(key string) (why string, known bool) {
	switch key {
	case "sigv4":
		why = "latpush does not sign requests for AWS (send to a signing proxy on this host by url or proxy_url)"
	case "azuread":
		why = "latpush has no Azure client (use oauth2 with the token_url of the tenant, or send to an authenticating proxy on this host by url)"
	case "google_iam":
		why = "latpush has no Google client (send to an authenticating proxy on this host by url)"
	case "send_exemplars":
		why = "latpush has no exemplars to send (remove the key)"
	case "round_robin_dns":
		why = "latpush has one connection to a receiver and looks its name up for each new one (remove the key)"
	case "failed_request_logging":
		why = "latpush always logs what the receiver says of a request that it refuses (remove the key)"
	case "convert_nhcb_to_classic":
		why = "latpush sends classic histograms unless told otherwise (use send_native_histograms: false)"
	case "capacity":
		why = "snapshots wait in the spool, on disk (use max_size in spool)"
	case "max_shards", "min_shards":
		why = "latpush sends the requests of a receiver one after the other, in order, so there are no shards (remove the key)"
	case "max_retries":
		why = "latpush repeats a request until the receiver gives a final answer (use quarantine_after)"
	}
	return why, why != ""
}
