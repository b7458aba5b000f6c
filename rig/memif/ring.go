package memif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Layout of a ring and its descriptors in shared memory, in bytes.
const (
	ringHeader     = 128
	ringCookieAt   = 0
	ringFlagsAt    = 4 // flags in the low half of a word, head in the high one
	ringTailAt     = 64
	descriptorSize = 16
	descFlagsAt    = 0
	descRegionAt   = 2
	descLengthAt   = 4
	descOffsetAt   = 8

	cookie       = 0x3E31F20
	ringMaskInt  = 1 // the receiver wants no interrupts
	descNext     = 1 // the frame goes on in the next descriptor
	maxLog2Ring  = 14
	maxRegions   = 256
	maxRingIndex = 255
)

// MaxFrame is the length of the longest frame an Interface takes or delivers,
// in bytes.
const MaxFrame = 65535

// region is a piece of shared memory.
type region struct {
	fd   int
	data []byte
}

// mapRegion maps size bytes of fd, which it owns from then on.
func mapRegion(fd int, size uint64) (*region, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && (size == 0 || size > uint64(st.Size)) {
		err = fmt.Errorf("it has %d bytes", st.Size)
	}
	var data []byte
	if err == nil {
		data, err = unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("map %d bytes of shared memory: %w", size, err)
	}
	return &region{fd: fd, data: data}, nil
}

// newRegion makes a region of size bytes.
func newRegion(size int) (*region, error) {
	fd, err := unix.MemfdCreate("memif", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("make %d bytes of shared memory: %w", size, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("seal shared memory: %w", err)
	}
	return mapRegion(fd, uint64(size))
}

func (r *region) close() {
	_ = unix.Munmap(r.data)
	closeFD(r.fd)
}

// ring is one direction of a queue. The client owns its memory: it posts
// descriptors by moving the head, the server returns them by moving the tail.
type ring struct {
	server  bool // this end is the server
	regions []*region
	data    []byte // header and descriptors
	size    uint16
	event   *os.File
	buffer  int // length of a buffer, in bytes; used by clients

	mu   sync.Mutex // held to send
	last uint16     // the next descriptor to receive
}

// newRing finds a ring in its region.
func newRing(server bool, regions []*region, m ringMessage, event *os.File) (*ring, error) {
	switch {
	case int(m.region) >= len(regions):
		return nil, fmt.Errorf("ring %d: there is no region %d", m.index, m.region)
	case m.log2Size > maxLog2Ring:
		return nil, fmt.Errorf("ring %d: its size is 2^%d", m.index, m.log2Size)
	case m.offset%4 != 0:
		return nil, fmt.Errorf("ring %d: its offset %d is not aligned", m.index, m.offset)
	}
	data, end := regions[m.region].data, uint64(m.offset)+ringBytes(m.log2Size)
	if end > uint64(len(data)) {
		return nil, fmt.Errorf("ring %d: it ends at %d, its region at %d", m.index, end, len(data))
	}
	r := &ring{server: server, regions: regions, data: data[m.offset:end], size: 1 << m.log2Size, event: event}
	if got := binary.LittleEndian.Uint32(r.data[ringCookieAt:]); got != cookie {
		return nil, fmt.Errorf("ring %d: its cookie is %#x", m.index, got)
	}
	return r, nil
}

func ringBytes(log2Size uint8) uint64 { return ringHeader + descriptorSize<<log2Size }

func (r *ring) word(at int) *uint32 { return (*uint32)(unsafe.Pointer(&r.data[at])) }
func (r *ring) head() uint16        { return uint16(atomic.LoadUint32(r.word(ringFlagsAt)) >> 16) }
func (r *ring) tail() uint16        { return uint16(atomic.LoadUint32(r.word(ringTailAt))) }
func (r *ring) setTail(v uint16)    { atomic.StoreUint32(r.word(ringTailAt), uint32(v)) }

// setHead and wantInterrupts share a word with each other's end.
func (r *ring) setHead(v uint16)      { r.update(0xffff, uint32(v)<<16) }
func (r *ring) wantInterrupts()       { r.update(0xffff_0000, 0) }
func (r *ring) interruptsMuted() bool { return atomic.LoadUint32(r.word(ringFlagsAt))&ringMaskInt != 0 }

func (r *ring) update(keep, set uint32) {
	w := r.word(ringFlagsAt)
	for {
		old := atomic.LoadUint32(w)
		if atomic.CompareAndSwapUint32(w, old, old&keep|set) {
			return
		}
	}
}

func (r *ring) descriptor(slot uint16) []byte {
	at := ringHeader + descriptorSize*int(slot&(r.size-1))
	return r.data[at : at+descriptorSize]
}

// buffers are the bytes a descriptor points to.
func (r *ring) buffers(d []byte, length uint32) ([]byte, error) {
	index, offset := binary.LittleEndian.Uint16(d[descRegionAt:]), binary.LittleEndian.Uint32(d[descOffsetAt:])
	if int(index) >= len(r.regions) {
		return nil, fmt.Errorf("a descriptor names region %d", index)
	}
	data := r.regions[index].data
	if end := uint64(offset) + uint64(length); end > uint64(len(data)) {
		return nil, fmt.Errorf("a descriptor ends at %d, its region at %d", end, len(data))
	}
	return data[offset : uint64(offset)+uint64(length)], nil
}

var errChain = errors.New("a frame does not end")

// receive appends the next frame to frame. It returns nil if there is none. A
// frame longer than MaxFrame comes out cut. Release has to be called before the
// next.
func (r *ring) receive(frame []byte) ([]byte, error) {
	end := r.tail()
	if r.server {
		end = r.head()
	}
	if end == r.last {
		return nil, nil
	}
	if end-r.last > r.size {
		return nil, fmt.Errorf("a ring of %d holds %d descriptors", r.size, end-r.last)
	}
	for {
		d := r.descriptor(r.last)
		length := binary.LittleEndian.Uint32(d[descLengthAt:])
		b, err := r.buffers(d, length)
		if err != nil {
			return nil, err
		}
		frame = append(frame, b[:min(len(b), MaxFrame-len(frame))]...)
		r.last++
		if binary.LittleEndian.Uint16(d[descFlagsAt:])&descNext == 0 {
			break
		}
		if r.last == end {
			return nil, errChain
		}
	}
	return frame, nil
}

// release tells the sender that the frames received are done with.
func (r *ring) release() {
	if r.server {
		r.setTail(r.last)
		return
	}
	posted := r.head()
	for slot := posted - r.size; slot != r.last; slot++ {
		binary.LittleEndian.PutUint32(r.descriptor(slot)[descLengthAt:], uint32(r.buffer))
	}
	r.setHead(r.last + r.size)
}

// drained tells whether the receiver is done with all that was sent.
func (r *ring) drained() bool {
	if r.server {
		// The client posts a descriptor again when it is done with it. Until it
		// has posted all, it is not known how many there are to be.
		return r.head()-r.tail() == r.size
	}
	return r.head() == r.tail()
}

// send puts a frame into the ring and tells whether there was room.
func (r *ring) send(frame []byte) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot, free := r.head(), uint16(0)
	if r.server {
		slot = r.tail()
		free = r.head() - slot
	} else {
		free = r.size - (slot - r.tail())
	}
	if free > r.size {
		return false, fmt.Errorf("a ring of %d has %d free descriptors", r.size, free)
	}
	for left := frame; ; {
		if free == 0 {
			return false, nil
		}
		d := r.descriptor(slot)
		room := uint32(r.buffer)
		if r.server {
			room = binary.LittleEndian.Uint32(d[descLengthAt:])
		}
		b, err := r.buffers(d, room)
		if err != nil {
			return false, err
		}
		if len(b) == 0 && len(left) > 0 {
			return false, errors.New("a descriptor has no room")
		}
		n := copy(b, left)
		left = left[n:]
		binary.LittleEndian.PutUint32(d[descLengthAt:], uint32(n))
		flags := uint16(0)
		if len(left) > 0 {
			flags = descNext
		}
		binary.LittleEndian.PutUint16(d[descFlagsAt:], flags)
		slot++
		free--
		if len(left) == 0 {
			break
		}
	}
	if r.server {
		r.setTail(slot)
	} else {
		r.setHead(slot)
	}
	return true, r.interrupt()
}

// interrupt wakes the receiver if it wants to be woken.
func (r *ring) interrupt() error {
	if r.interruptsMuted() {
		return nil
	}
	_, err := r.event.Write(binary.NativeEndian.AppendUint64(nil, 1))
	return err
}

// eventFile takes over an eventfd.
func eventFile(fd int) (*os.File, error) {
	// Else a reader could not be ended by closing.
	if err := unix.SetNonblock(fd, true); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("take eventfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "eventfd"), nil
}
