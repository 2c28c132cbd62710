module holdfast/tests/lab/vcsim

go 1.23.0

require (
	github.com/google/uuid v1.6.0
	github.com/vmware/govmomi v0.52.0
)

require (
	github.com/rasky/go-xdr v0.0.0-20170124162913-1a41d1a06c93 // indirect
	github.com/willscott/go-nfs-client v0.0.0-20251022144359-801f10d98886
)
