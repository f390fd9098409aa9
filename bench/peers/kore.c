/*
 * A module for Kore that broadcasts each WebSocket message, by Kore's own broadcast, to all other clients.
 *
 * Kore's broadcast knows no topics, so all clients of the server are one topic.
 */

#include <kore/kore.h>

#include <kore/http.h>
#include <kore/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>

int connect_client(struct http_request *);
void broadcast_message(struct connection *, u_int8_t, void *, size_t);
void kore_worker_configure(void);

/* Kore's sandbox kills a worker that makes another system call. */
KORE_SECCOMP_FILTER("ringhub", KORE_SYSCALL_ALLOW(prctl))

/* Kore calls this in its worker. A worker that has lost its parent process would run on, so the kernel ends it then. */
void kore_worker_configure(void) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) == -1)
    kore_log(LOG_ERR, "prctl: %s", errno_s);
}

int connect_client(struct http_request *request) {
  kore_websocket_handshake(request, NULL, "broadcast_message", NULL);
  return KORE_RESULT_OK;
}

void broadcast_message(struct connection *sender, u_int8_t opcode, void *payload, size_t length) {
  /* There is one worker, so no message has to go to another one. */
  kore_websocket_broadcast(sender, opcode, payload, length, WEBSOCKET_BROADCAST_LOCAL);
}
