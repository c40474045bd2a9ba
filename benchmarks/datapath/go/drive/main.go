// The benchmark's other side: a mock upstream and a load generator in one thread on raw TCP, so that neither is the bottleneck.
//
//	drive            serves the mock, reads orders (JSON lines) from standard input, writes outcomes to standard output
//	drive -tls ...   the mock over TLS, as a process of its own (crypto/tls needs goroutines)
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

func main() {
	certificate := flag.String("certificate", "", "PEM file: serve the mock over TLS, and nothing else")
	flag.Parse()
	if *certificate != "" {
		serveTLS(*certificate)
		return
	}
	runtime.LockOSThread()
	debug.SetGCPercent(400)
	l, known := newLoop(), newAnswers()
	fd, address := listen("127.0.0.1:0")
	l.add(fd, &mock{loop: l, fd: fd, answers: known})
	fmt.Printf("{\"address\":%q}\n", address)
	orders := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for orders.Scan() {
		var order Order
		check(json.Unmarshal(orders.Bytes(), &order))
		runtime.GC() // between measurements rather than within them
		check(out.Encode(measure(l, known, order)))
	}
}
