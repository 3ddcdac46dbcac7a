# A node's configuration, with every key there is. What is commented out shows the default.
# Several files, or a directory of them, may be given (-config, repeatable): a later file wins key by key.
# STRONGROOM_NODE_ID and friends win over files, flags win over both: see docs/configuration.md.

# The node's name in its cluster, for ever: 1 to 63 of a-z, 0-9 and "-". Default: the host name.
node_id = "n1"

# Which region the node stands in. All nodes of one Raft cluster share it.
# region = "local"

# Where nodes of other regions reach this one. Without it the node takes no part in regions.
# region_addr = ""

# What is bound for them instead, if they come through a proxy; the local IP address that links leave from; and how much
# is sent to them at most, such as "10Mbit".
# region_bind_addr = ""
# region_source_addr = ""
# region_bandwidth = ""

# What `sys/health` and `sys/seal-status` call the cluster.
# cluster_name = "strongroom"

# Everything the node keeps, encrypted. Mode 0700, its own.
# data_dir = "/var/lib/strongroom"

# What clients and other nodes reach this node by. Default: made from the first listener.
api_addr = "https://127.0.0.1:8200"

# Where the others reach this node's Raft listener, and where it is bound unless a listener's cluster_address says
# otherwise. Default: the listener's host, next port.
cluster_addr = "127.0.0.1:8201"

# The address of this machine from which it calls other nodes. Default: the system's choice.
# cluster_source_addr = ""

# Where clients are served. Repeat the block for more addresses. Default: 127.0.0.1:8200.
listener "tcp" {
  address = "127.0.0.1:8200"

  # Both or neither. Without them the node presents a certificate of the cluster's own CA,
  # whose certificate is <data_dir>/tls/ca.pem.
  # tls_cert_file = "/etc/strongroom/tls/cert.pem"
  # tls_key_file  = "/etc/strongroom/tls/key.pem"

  # Where the Raft listener is bound, if that is not what the others are told.
  # cluster_address = "127.0.0.1:8201"

  # The older protocol may be allowed; the newer one cannot be forbidden.
  # tls_min_version = "tls13"
  # tls_max_version = "tls13"

  # Certificates of clients: of which authorities, whether every client must show one, and that none is asked for.
  # tls_client_ca_file                 = ""
  # tls_require_and_verify_client_cert = false
  # tls_disable_client_certs           = false

  # Of one request: bytes of its body, and how long it may take. The smallest that a listener says holds for all.
  # max_request_size     = 33554432
  # max_request_duration = "90s"

  # true: no sys/rekey and no sys/generate-root without a token.
  # disable_unauthed_rekey_endpoints = false

  # Plain HTTP; refused on anything but a loopback address.
  # tls_disable = false
}

# What opens the store at start. "static": a file of 32 random bytes, mode 0600, the same on every node
# (head -c 32 /dev/urandom > seal.key). "shamir": people with key shares, who must come at every start;
# it needs the listener's tls files, for a sealed node has no key to protect its own TLS key.
seal "static" {
  key_file = "/etc/strongroom/seal.key"
}
# seal "shamir" {}

# Who did what. At least one file, or audit "none" {} in so many words.
# A request whose record no file accepts is not answered.
audit "file" {
  path = "/var/log/strongroom/audit.jsonl"
}

telemetry {
  # true: GET /v1/sys/metrics needs no token.
  # unauthenticated_metrics_access = false
}

raft {
  # The leader's sign of life, and how long a follower waits for one before it calls an election.
  # At least three heartbeats must fit into the timeout.
  # heartbeat        = "100ms"
  # election_timeout = "1s"
  # Nodes answer reads alone while leases allow it, which leans on their clocks running at about the same speed
  # (not on the time that they show). Without, every read asks a quorum.
  # read_leases = true
}

# Memory for decrypted values that are read often; 0 keeps none.
# value_cache_mib = 64
# Memory for the current values of others, of 4 KiB at most, which stay encrypted; a million small ones fit. 0 keeps none.
# packed_cache_mib = 512

# How many may listen to events on this node at once.
# event_subscribers_max = 12288

# Plain KV v2 reads are answered on the spot and plain writes taken many at a time; false sends both the ordinary way,
# with the same answers.
# read_lane = true

# Processes beside the server that answer plain reads on more cores; 0: none.
# read_workers = 0

# Lifetimes of tokens and leases, where nothing else is said.
# default_lease_ttl = "768h"
# max_lease_ttl     = "768h"

# Where this node, when it leads, keeps the snapshots that are taken by themselves. Default: nowhere.
# snapshot_dir = ""

# Holds the number of the process as long as it runs. Default: none.
# pid_file = ""

# debug, info, warning or error.
# log_level = "info"

# "json", or "standard" for human eyes.
# log_format = "json"
