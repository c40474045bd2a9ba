package main

import (
	"bytes"
	"container/heap"
	"log"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	pwait2   = 441 // epoll_pwait2: time-outs in nanoseconds
	readSize = 256 * 1024
)

var began = time.Now()

// now is monotonic.
func now() time.Duration { return time.Since(began) }

type handler interface {
	readable()
	writable()
}

// loop is one thread's epoll: whatever the mock and the load generator cost, they share one core and never switch.
type loop struct {
	epoll    int
	handlers []handler
	timers   timers
	ready    []func() // what asks for its turn after the next look at the sockets
	buffer   []byte
	events   []syscall.EpollEvent
}

func newLoop() *loop {
	epoll, err := syscall.EpollCreate1(0)
	check(err)
	return &loop{epoll: epoll, buffer: make([]byte, readSize), events: make([]syscall.EpollEvent, 512)}
}

func (l *loop) add(fd int, h handler) {
	for len(l.handlers) <= fd {
		l.handlers = append(l.handlers, nil)
	}
	l.handlers[fd] = h
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	check(syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &event))
}

func (l *loop) watchWrites(fd int, on bool) {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	if on {
		event.Events |= syscall.EPOLLOUT
	}
	check(syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_MOD, fd, &event))
}

func (l *loop) remove(fd int) {
	if l.handlers[fd] != nil {
		l.handlers[fd] = nil
		syscall.Close(fd)
	}
}

func (l *loop) at(when time.Duration, what func()) { heap.Push(&l.timers, timer{when, what}) }

func (l *loop) runUntil(over func() bool) {
	for !over() {
		wait := time.Duration(100 * time.Millisecond)
		if len(l.ready) > 0 {
			wait = 0
		} else if len(l.timers) > 0 {
			wait = max(0, min(wait, l.timers[0].when-now()))
		}
		spec := syscall.NsecToTimespec(int64(wait))
		count, _, errno := syscall.RawSyscall6(pwait2, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])),
			uintptr(len(l.events)), uintptr(unsafe.Pointer(&spec)), 0, 0)
		if errno != 0 && errno != syscall.EINTR {
			log.Fatal("epoll_pwait2: ", errno)
		}
		if errno == 0 {
			for _, event := range l.events[:count] {
				if h := l.handlers[event.Fd]; h != nil && event.Events&^syscall.EPOLLOUT != 0 {
					h.readable()
				}
				if h := l.handlers[event.Fd]; h != nil && event.Events&syscall.EPOLLOUT != 0 {
					h.writable()
				}
			}
		}
		turn := l.ready
		l.ready = nil
		for _, what := range turn {
			what()
		}
		for present := now(); len(l.timers) > 0 && l.timers[0].when <= present; {
			heap.Pop(&l.timers).(timer).what()
		}
	}
}

type timer struct {
	when time.Duration
	what func()
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].when < t[j].when }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	*t = old[:len(old)-1]
	return last
}

// socket is a non-blocking connection with what could not be written yet.
type socket struct {
	loop    *loop
	fd      int
	waiting []byte
}

func (s *socket) write(data []byte) {
	if len(s.waiting) == 0 {
		count, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)))
		if errno != 0 {
			count = 0
		}
		if errno != 0 && errno != syscall.EAGAIN {
			return // the reader sees the end
		}
		if data = data[count:]; len(data) == 0 {
			return
		}
		s.loop.watchWrites(s.fd, true)
	}
	s.waiting = append(s.waiting, data...)
}

func (s *socket) writable() {
	data := s.waiting
	s.waiting = nil
	s.loop.watchWrites(s.fd, false)
	if len(data) > 0 {
		s.write(data)
	}
}

// read returns what has come; nil at the end, empty when there is nothing.
func (s *socket) read() []byte {
	buffer := s.loop.buffer
	count, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(s.fd), uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)))
	if errno == syscall.EAGAIN || errno == syscall.EINTR {
		return buffer[:0]
	}
	if errno != 0 || count == 0 {
		return nil
	}
	return buffer[:count]
}

func listen(address string) (int, string) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	check(err)
	check(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
	check(syscall.Bind(fd, resolve(address)))
	check(syscall.Listen(fd, 1024))
	bound, err := syscall.Getsockname(fd)
	check(err)
	return fd, "127.0.0.1:" + strconv.Itoa(bound.(*syscall.SockaddrInet4).Port)
}

func resolve(address string) *syscall.SockaddrInet4 {
	at := bytes.LastIndexByte([]byte(address), ':')
	port, err := strconv.Atoi(address[at+1:])
	check(err)
	return &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}

func noDelay(fd int) { _ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1) }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
