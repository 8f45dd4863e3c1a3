# A stand-in for nsqio/nsq:v1.3.0 without access to a registry (CI): the same programs in the same places, from `make peers`, and
# busybox's wget, which the real image (Alpine) has, too, and which the health checks call.
# Build context: a folder with nsqd, nsqlookupd, nsqadmin and a static busybox.
FROM scratch
COPY nsqd nsqlookupd nsqadmin /usr/local/bin/
COPY busybox /bin/wget
WORKDIR /data
