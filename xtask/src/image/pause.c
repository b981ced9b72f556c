/* The container that holds a pod's namespaces: it waits, reaps what others leave behind, and ends at once when asked to. */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

int main(void) {
  sigset_t awaited;
  int received = 0;
  sigemptyset(&awaited);
  sigaddset(&awaited, SIGINT);
  sigaddset(&awaited, SIGTERM);
  sigaddset(&awaited, SIGCHLD);
  /* Blocked and waited for: as the first process of its namespace it is not sent what it neither handles nor blocks. */
  sigprocmask(SIG_BLOCK, &awaited, NULL);
  while (sigwait(&awaited, &received) == 0 && received == SIGCHLD) {
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
  }
  return 0;
}
