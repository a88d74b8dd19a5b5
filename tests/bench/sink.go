// sink: an S3 server that throws away what it is given, so that only the client's own speed is left to measure.
//
// It checks no signature and no checksum, but answers as a store that has: names the checksums that came with a body,
// lists keys and sizes, refuses a second object where the request says "only if nothing is there". A key that was put is
// answered with the file of its last word, the oid, from git-lfs's folder of objects.
package main

import (
	"cmp"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	block = 1 << 20
	etag  = `"00000000000000000000000000000000-1"` // as of parts: with 32 digits alone it would be taken for an MD5
)

var checksums = []string{"CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"}

// A connection whose large reads are of bodies, which nobody looks at: the kernel drops them without a copy (Linux).
type discarding struct{ *net.TCPConn }

func (c discarding) Read(into []byte) (int, error) {
	if len(into) < block/4 {
		return c.TCPConn.Read(into)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var got int
	var failed error
	err = raw.Read(func(descriptor uintptr) bool {
		got, _, failed = syscall.Recvfrom(int(descriptor), into, syscall.MSG_TRUNC)
		return failed != syscall.EAGAIN
	})
	if err = cmp.Or(err, failed); err == nil && got == 0 {
		err = io.EOF
	}
	return max(got, 0), err
}

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return discarding{connection.(*net.TCPConn)}, nil
}

var buffers = sync.Pool{New: func() any { return new([block]byte) }}

func discard(body io.Reader) error {
	buffer := buffers.Get().(*[block]byte)
	defer buffers.Put(buffer)
	for {
		if _, err := body.Read(buffer[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

type object struct {
	size int64
	at   time.Time
}

type sink struct {
	folder  string
	seen    *log.Logger
	lock    sync.Mutex // of all that follows
	objects map[string]object
	uploads map[string]map[string]int64 // sizes by number, by id
	count   int
}

// The request's outcome goes to the log: method, target, status.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// ReadFrom keeps sendfile within reach of http.ServeContent.
func (a *answer) ReadFrom(from io.Reader) (int64, error) { return io.Copy(a.ResponseWriter, from) }

func (s *sink) ServeHTTP(plain http.ResponseWriter, request *http.Request) {
	to := &answer{plain, http.StatusOK}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(request.URL.Path, "/"), "/")
	switch {
	case key != "":
		s.object(to, request, request.URL.Path)
	case request.Method == http.MethodGet && bucket != "":
		s.list(to, bucket, request)
	case request.Method == http.MethodPut:
	default:
		refuse(to, http.StatusNotFound, "NoSuchBucket")
	}
	s.seen.Printf("%s %s %d", request.Method, request.URL.RequestURI(), to.status)
}

func (s *sink) object(to *answer, request *http.Request, key string) {
	query := request.URL.Query()
	switch request.Method + " " + kind(query) {
	case "PUT part":
		if size, ok := taken(to, request); ok {
			s.part(to, query.Get("uploadId"), query.Get("partNumber"), size)
		}
	case "PUT object":
		if size, ok := taken(to, request); ok && s.put(to, request, key, size) {
			to.WriteHeader(http.StatusOK)
		}
	case "POST begin":
		s.begin(to, request, key)
	case "POST upload":
		if _, ok := taken(to, request); ok {
			s.complete(to, request, key, query.Get("uploadId"))
		}
	case "DELETE upload", "DELETE object":
		to.WriteHeader(http.StatusNoContent)
	case "GET object", "HEAD object":
		s.get(to, request, key)
	default:
		refuse(to, http.StatusNotImplemented, "NotImplemented")
	}
}

func kind(query map[string][]string) string {
	for _, word := range [][2]string{{"partNumber", "part"}, {"uploadId", "upload"}, {"uploads", "begin"}} {
		if _, ok := query[word[0]]; ok {
			return word[1]
		}
	}
	return "object"
}

// Reads the body away; gives its size, and names its checksums as a store does that has found them right.
func taken(to *answer, request *http.Request) (int64, bool) {
	size := request.ContentLength
	if decoded, err := strconv.ParseInt(request.Header.Get("x-amz-decoded-content-length"), 10, 64); err == nil {
		size = decoded
	}
	if err := discard(request.Body); err != nil {
		refuse(to, http.StatusBadRequest, "IncompleteBody")
		return 0, false
	}
	if request.Method == http.MethodPut {
		to.Header().Set("ETag", etag)
		for _, name := range checksums {
			if value := request.Header.Get("x-amz-checksum-" + name); value != "" {
				to.Header().Set("x-amz-checksum-"+name, value)
			}
		}
	}
	return size, true
}

func (s *sink) put(to *answer, request *http.Request, key string, size int64) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	if _, there := s.objects[key]; there && request.Header.Get("If-None-Match") == "*" {
		refuse(to, http.StatusPreconditionFailed, "PreconditionFailed")
		return false
	}
	s.objects[key] = object{size, time.Now().UTC()}
	return true
}

func (s *sink) begin(to *answer, request *http.Request, key string) {
	for _, name := range []string{"x-amz-checksum-algorithm", "x-amz-checksum-type"} {
		if value := request.Header.Get(name); value != "" {
			to.Header().Set(name, value)
		}
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.count++
	id := strconv.Itoa(s.count)
	s.uploads[id] = map[string]int64{}
	write(to, http.StatusOK, struct {
		XMLName       xml.Name `xml:"InitiateMultipartUploadResult"`
		Key, UploadId string
	}{Key: key, UploadId: id})
}

func (s *sink) part(to *answer, id, number string, size int64) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if parts, ok := s.uploads[id]; ok {
		parts[number] = size
	} else {
		refuse(to, http.StatusNotFound, "NoSuchUpload")
	}
}

func (s *sink) complete(to *answer, request *http.Request, key, id string) {
	var size int64
	s.lock.Lock()
	for _, part := range s.uploads[id] {
		size += part
	}
	s.lock.Unlock()
	if s.put(to, request, key, size) {
		write(to, http.StatusOK, struct {
			XMLName        xml.Name `xml:"CompleteMultipartUploadResult"`
			Key, ETag      string
			ChecksumCRC32C string `xml:",omitempty"`
			ChecksumType   string `xml:",omitempty"`
		}{
			Key: key, ETag: etag,
			ChecksumCRC32C: request.Header.Get("x-amz-checksum-crc32c"),
			ChecksumType:   request.Header.Get("x-amz-checksum-type"),
		})
	}
}

func (s *sink) get(to *answer, request *http.Request, key string) {
	s.lock.Lock()
	stored, there := s.objects[key]
	s.lock.Unlock()
	oid := path.Base(key)
	if !there || len(oid) < 4 {
		refuse(to, http.StatusNotFound, "NoSuchKey")
		return
	}
	to.Header().Set("ETag", etag)
	to.Header().Set("Content-Type", "application/octet-stream")
	if file, err := os.Open(filepath.Join(s.folder, oid[:2], oid[2:4], oid)); err == nil {
		defer file.Close()
		http.ServeContent(to, request, oid, stored.at, file)
	} else if request.Method == http.MethodHead {
		to.Header().Set("Content-Length", strconv.FormatInt(stored.size, 10))
		to.Header().Set("Last-Modified", stored.at.Format(http.TimeFormat))
	} else {
		refuse(to, http.StatusNotFound, "NoSuchKey")
	}
}

type entry struct {
	Key, LastModified, ETag, StorageClass string
	Size                                  int64
}

func (s *sink) list(to *answer, bucket string, request *http.Request) {
	query := request.URL.Query()
	most, err := strconv.Atoi(query.Get("max-keys"))
	if err != nil {
		most = 1000
	}
	after := cmp.Or(query.Get("continuation-token"), query.Get("start-after"), query.Get("marker"))
	entries := []entry{}
	s.lock.Lock()
	for name, stored := range s.objects {
		key, inside := strings.CutPrefix(name, "/"+bucket+"/")
		if inside && strings.HasPrefix(key, query.Get("prefix")) && key > after {
			entries = append(entries, entry{key, stored.at.Format(time.RFC3339), etag, "STANDARD", stored.size})
		}
	}
	s.lock.Unlock()
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.Key, b.Key) })
	next := ""
	if len(entries) > most {
		entries = entries[:most]
		next = entries[most-1].Key
	}
	write(to, http.StatusOK, struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		Name, Prefix          string
		KeyCount, MaxKeys     int
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		NextMarker            string `xml:",omitempty"`
		Contents              []entry
	}{
		Name: bucket, Prefix: query.Get("prefix"), KeyCount: len(entries), MaxKeys: most,
		IsTruncated: next != "", NextContinuationToken: next, NextMarker: next, Contents: entries,
	})
}

func refuse(to *answer, status int, code string) {
	write(to, status, struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: code, Message: code})
}

func write(to *answer, status int, content any) {
	body, err := xml.Marshal(content)
	if err != nil {
		panic(err)
	}
	to.Header().Set("Content-Type", "application/xml")
	to.Header().Set("Content-Length", strconv.Itoa(len(xml.Header)+len(body)))
	to.WriteHeader(status)
	fmt.Fprintf(to, "%s%s", xml.Header, body)
}

func main() {
	port := flag.Int("port", 0, "to listen on, on 127.0.0.1")
	folder := flag.String("objects", "", "git-lfs's folder of objects: what is answered to a GET")
	seen := flag.String("log", "", "file of requests")
	certificate := flag.String("cert", "", "PEM file; https where there is one")
	key := flag.String("key", "", "of the certificate")
	flag.Parse()
	file, err := os.OpenFile(*seen, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	tcp, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: &sink{
		folder: *folder, seen: log.New(file, "", 0), objects: map[string]object{}, uploads: map[string]map[string]int64{},
	}}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true) // as S3 has it
	if *certificate != "" {
		log.Fatal(server.ServeTLS(tcp, *certificate, *key))
	}
	log.Fatal(server.Serve(listener{tcp}))
}
