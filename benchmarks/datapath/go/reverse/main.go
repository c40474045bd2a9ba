// Go's net/http/httputil.ReverseProxy as one would write it for this work: it streams, keeps connections, and reuses its buffers.
// It measures nothing: it is what the meter is compared with.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"
)

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte      { return *b.pool.Get().(*[]byte) }
func (b *buffers) Put(piece []byte) { b.pool.Put(&piece) }

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	upstream := flag.String("upstream", "", "origin")
	authority := flag.String("ca", "", "PEM file of the upstream's CA")
	flag.Parse()
	origin, err := url.Parse(*upstream)
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     50 * time.Second,
		DisableCompression:  true,
	}
	if *authority != "" {
		pem, err := os.ReadFile(*authority)
		if err != nil {
			log.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(request *httputil.ProxyRequest) { request.SetURL(origin) },
		Transport:     transport,
		FlushInterval: -1,
		BufferPool:    &buffers{sync.Pool{New: func() any { piece := make([]byte, 32*1024); return &piece }}},
	}
	server := &http.Server{Addr: *listen, Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
