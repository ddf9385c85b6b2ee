/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A C program at either side of a libsipc 1.2 channel, for the tests: it speaks the wire with plain System V
 * calls, in the order and with the arguments that library uses, and checks no more than it does.
 *
 *   peer create  shm|mq PATH SIZE          make the objects
 *   peer unlink  shm|mq PATH               remove them
 *   peer send    shm|mq PATH SIZE          messages from standard input: uint32 length, bytes; ends with the input
 *   peer receive shm|mq PATH SIZE COUNT    COUNT messages to standard output, in the same form
 *   peer put     PATH                      raw: int64 mtype, uint32 length, bytes from standard input, as they are
 *   peer get     PATH COUNT                raw: COUNT messages to standard output, in the same form
 *
 * Numbers on standard input and output are native.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/shm.h>

enum { READY = 3, READING = 4, DONE = 5, LENGTH = 9, END = 0xc };

struct control {
	long mtype;
	size_t length;
};

struct packet {
	long mtype;
	char text[65536];
};

static struct packet packet;
static key_t key;
static int queue = -1;

static void fail(const char *what)
{
	fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void wrong(const char *what)
{
	fprintf(stderr, "peer: %s\n", what);
	exit(1);
}

/* Returns 0 at the end of the input. */
static int input(void *to, size_t size)
{
	size_t got = fread(to, 1, size, stdin);

	if (got != 0 && got != size)
		wrong("input ends in the middle");
	return got == size;
}

static void output(const void *from, size_t size)
{
	if (fwrite(from, 1, size, stdout) != size)
		fail("fwrite");
}

static void put(const void *message, size_t size)
{
	while (msgsnd(queue, message, size, 0) < 0)
		if (errno != EINTR)
			fail("msgsnd");
}

static size_t get(void *message, size_t size, long type)
{
	ssize_t got;

	while ((got = msgrcv(queue, message, size, type, 0)) < 0)
		if (errno != EINTR)
			fail("msgrcv");
	return (size_t)got;
}

static size_t max_packet(void)
{
	FILE *file = fopen("/proc/sys/fs/mqueue/msgsize_max", "r");
	size_t size;

	if (!file || fscanf(file, "%zu", &size) != 1)
		fail("msgsize_max");
	fclose(file);
	if (size - sizeof(long) > sizeof(packet.text))
		wrong("msgsize_max is larger than this program's buffer");
	return size - sizeof(long);
}

static void create(int shm, size_t size)
{
	struct msqid_ds status;

	if (shm && shmget(key, size, 0666 | IPC_CREAT | IPC_EXCL) < 0)
		fail("shmget");
	queue = msgget(key, 0666 | IPC_CREAT | IPC_EXCL);
	if (queue < 0)
		fail("msgget");
	if (!shm)
		return;
	if (msgctl(queue, IPC_STAT, &status) < 0)
		fail("IPC_STAT");
	status.msg_qbytes = sizeof(size_t);
	if (msgctl(queue, IPC_SET, &status) < 0)
		fail("IPC_SET");
}

static void unlink_objects(int shm)
{
	int segment;

	queue = msgget(key, 0);
	if (queue < 0 || msgctl(queue, IPC_RMID, NULL) < 0)
		fail("removing the queue");
	if (!shm)
		return;
	segment = shmget(key, 0, 0);
	if (segment < 0 || shmctl(segment, IPC_RMID, NULL) < 0)
		fail("removing the segment");
}

static char *attach(int shm, int sender, size_t size)
{
	char *data = NULL;
	int segment;

	if (shm) {
		segment = shmget(key, size, sender ? 0666 : 0444);
		if (segment < 0)
			fail("shmget");
		data = shmat(segment, NULL, sender ? 0 : SHM_RDONLY);
		if (data == (char *)-1)
			fail("shmat");
	} else {
		data = calloc(1, size ? size : 1);
		if (!data)
			fail("calloc");
	}
	queue = msgget(key, sender ? 0200 : 0400);
	if (queue < 0)
		fail("msgget");
	return data;
}

static void send_control(long type, size_t length)
{
	struct control control = { type, length };

	put(&control, sizeof(control.length));
}

static void send_packets(const char *data, size_t length)
{
	size_t most = max_packet(), sent, now;

	packet.mtype = LENGTH;
	sprintf(packet.text, "%zu", length);
	put(&packet, strlen(packet.text) + 1);
	for (sent = 0; sent < length; sent += now) {
		now = length - sent < most ? length - sent : most;
		packet.mtype = READY;
		memcpy(packet.text, data + sent, now);
		put(&packet, now);
	}
	packet.mtype = END;
	packet.text[0] = 1;
	put(&packet, 1);
}

static void send_all(int shm, size_t size)
{
	char *data = attach(shm, 1, size);
	uint32_t length;

	while (input(&length, sizeof(length))) {
		if (length > size)
			wrong("the message is larger than the channel");
		if (length && !input(data, length))
			wrong("input ends in the middle");
		if (shm) {
			send_control(READY, length);
			send_control(READING, 0);
			send_control(DONE, 0);
		} else {
			send_packets(data, length);
		}
	}
}

static void receive_block(const char *data)
{
	struct control control;
	uint32_t length;

	get(&control, sizeof(control.length), 0);
	if (control.mtype != READY)
		wrong("a message that is not 3");
	length = control.length;
	output(&length, sizeof(length));
	output(data, length);
	get(&control, sizeof(control.length), READING);
	get(&control, sizeof(control.length), DONE);
}

static void receive_packets(char *data, size_t size)
{
	size_t most = max_packet(), announced, came = 0, now;
	uint32_t length;

	get(&packet, most, 0);
	if (packet.mtype != LENGTH)
		wrong("a message that is not 9");
	announced = strtoul(packet.text, NULL, 10);
	if (announced > size)
		wrong("a message larger than the channel");
	for (;;) {
		now = get(&packet, most, 0);
		if (packet.mtype == END)
			break;
		if (now > announced - came)
			now = announced - came;
		memcpy(data + came, packet.text, now);
		came += now;
	}
	length = came;
	output(&length, sizeof(length));
	output(data, came);
}

static void receive_all(int shm, size_t size, long count)
{
	char *data = attach(shm, 0, size);

	while (count-- > 0) {
		if (shm)
			receive_block(data);
		else
			receive_packets(data, size);
	}
	if (fflush(stdout))
		fail("fflush");
}

static void put_raw(void)
{
	uint32_t length;
	int64_t mtype;

	queue = msgget(key, 0200);
	if (queue < 0)
		fail("msgget");
	while (input(&mtype, sizeof(mtype))) {
		if (!input(&length, sizeof(length)) || length > sizeof(packet.text))
			wrong("bad input");
		if (length && !input(packet.text, length))
			wrong("input ends in the middle");
		packet.mtype = mtype;
		put(&packet, length);
	}
}

static void get_raw(long count)
{
	uint32_t length;
	int64_t mtype;

	queue = msgget(key, 0400);
	if (queue < 0)
		fail("msgget");
	while (count-- > 0) {
		length = get(&packet, sizeof(packet.text), 0);
		mtype = packet.mtype;
		output(&mtype, sizeof(mtype));
		output(&length, sizeof(length));
		output(packet.text, length);
	}
	if (fflush(stdout))
		fail("fflush");
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	int raw = !strcmp(verb, "put") || !strcmp(verb, "get");
	int shm = argc > 2 && !strcmp(argv[2], "shm");
	const char *path = raw ? argv[2] : argc > 3 ? argv[3] : NULL;
	size_t size = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;

	if (!path)
		wrong("usage: peer create|unlink|send|receive|put|get ...");
	key = ftok(path, 'a');
	if (key < 0)
		fail("ftok");
	if (!strcmp(verb, "create"))
		create(shm, size);
	else if (!strcmp(verb, "unlink"))
		unlink_objects(shm);
	else if (!strcmp(verb, "send"))
		send_all(shm, size);
	else if (!strcmp(verb, "receive") && argc > 5)
		receive_all(shm, size, strtol(argv[5], NULL, 10));
	else if (!strcmp(verb, "put"))
		put_raw();
	else if (!strcmp(verb, "get") && argc > 3)
		get_raw(strtol(argv[3], NULL, 10));
	else
		wrong("usage: peer create|unlink|send|receive|put|get ...");
	return 0;
}
