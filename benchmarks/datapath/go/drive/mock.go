package main

import (
	"bytes"
	"strconv"
	"syscall"
)

// mock is the upstream: it reads whole requests and answers as their model says.
type mock struct {
	loop    *loop
	fd      int
	answers *answers
}

func (m *mock) readable() {
	for {
		fd, _, err := syscall.Accept4(m.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		noDelay(fd)
		m.loop.add(fd, &served{socket: socket{loop: m.loop, fd: fd}, mock: m})
	}
}

func (m *mock) writable() {}

type served struct {
	socket
	mock    *mock
	pending []byte
	closed  bool
}

func (s *served) readable() {
	data := s.read()
	if data == nil {
		s.closed = true
		s.loop.remove(s.fd)
		return
	}
	if len(s.pending) > 0 {
		s.pending = append(s.pending, data...)
		data = s.pending
	}
	_, body, complete := request(data)
	if !complete {
		if len(s.pending) == 0 {
			s.pending = append(s.pending[:0], data...)
		}
		return
	}
	answer := s.mock.answers.forBody(body)
	s.pending = s.pending[:0]
	if answer == nil {
		s.write([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
		return
	}
	s.say(answer, 0)
}

// say writes one piece, and leaves the next to its time; without a gap to the next turn, so that each is a write of its own.
// The first content follows the head at once: the pace is not part of the time to it.
func (s *served) say(answer *plan, index int) {
	if s.closed {
		return
	}
	s.write(answer.pieces[index])
	index++
	if index == len(answer.pieces) {
		return
	}
	next := func() { s.say(answer, index) }
	if answer.gap == 0 || index == 1 {
		s.loop.ready = append(s.loop.ready, next)
	} else {
		s.loop.at(now()+answer.gap, next)
	}
}

// request splits a request with Content-Length; a chunked one is complete at its last chunk, and its body is left as it is.
func request(data []byte) (head, body []byte, complete bool) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, nil, false
	}
	head, body = data[:end], data[end+4:]
	length, chunked := framing(head)
	if chunked {
		return head, body, bytes.HasSuffix(body, []byte("0\r\n\r\n"))
	}
	return head, body, len(body) >= length
}

func framing(head []byte) (length int, chunked bool) {
	for len(head) > 0 {
		line := head
		if end := bytes.IndexByte(head, '\n'); end >= 0 {
			line, head = head[:end], head[end+1:]
		} else {
			head = nil
		}
		switch {
		case len(line) > 15 && (line[0]|32) == 'c' && bytes.EqualFold(line[:15], []byte("content-length:")):
			length, _ = strconv.Atoi(string(bytes.TrimSpace(line[15:])))
		case len(line) > 18 && (line[0]|32) == 't' && bytes.EqualFold(line[:18], []byte("transfer-encoding:")):
			chunked = true
		}
	}
	return length, chunked
}
