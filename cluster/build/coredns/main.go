// Command coredns is CoreDNS with only the plugins that a cluster's DNS needs: the rest of its plugins (cloud
// providers, etcd, tracing) would double what has to be compiled.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

// The order is the order in which CoreDNS chains them, whatever the Corefile's.
var plugins = []string{"reload", "health", "ready", "log", "errors", "cache", "loadbalance", "kubernetes", "forward"}

func init() {
	dnsserver.Directives = plugins
}

func main() {
	coremain.Run()
}
