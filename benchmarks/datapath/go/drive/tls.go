package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// serveTLS is the mock behind TLS 1.3; plain goroutines, since it is compared with nothing.
func serveTLS(certificate string) {
	pair, err := tls.LoadX509KeyPair(certificate, certificate)
	check(err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
	check(err)
	fmt.Printf("{\"address\":%q}\n", listener.Addr().String())
	for {
		connection, err := listener.Accept()
		check(err)
		go answerTLS(connection)
	}
}

func answerTLS(connection net.Conn) {
	defer connection.Close()
	known := newAnswers()
	reader := bufio.NewReaderSize(connection, readSize)
	var pending []byte
	buffer := make([]byte, readSize)
	for {
		count, err := reader.Read(buffer)
		if err != nil {
			return
		}
		pending = append(pending, buffer[:count]...)
		_, body, complete := request(pending)
		if !complete {
			continue
		}
		answer := known.forBody(body)
		pending = pending[:0]
		if answer == nil {
			return
		}
		for index, piece := range answer.pieces {
			if index > 0 && answer.gap > 0 {
				time.Sleep(answer.gap)
			}
			if _, err := connection.Write(piece); err != nil {
				return
			}
		}
	}
}
