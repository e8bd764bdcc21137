/*
 * SoftHSM as a slow device: one signature at a time, and SERVICE_US more for each.
 *
 * A PKCS#11 module that passes everything to the module in SLOW_MODULE; `sitecustomize.py` beside it puts it
 * in the agents' way. Keys and signatures are real; only time is simulated.
 */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#ifndef SERVICE_US
#define SERVICE_US 4000
#endif

static CK_FUNCTION_LIST *real, slow;
static pthread_mutex_t device = PTHREAD_MUTEX_INITIALIZER;

static CK_RV slow_sign(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG size, CK_BYTE *signature, CK_ULONG *room)
{
    struct timespec service = {0, SERVICE_US * 1000L};
    if (!signature)
        return real->C_Sign(session, data, size, signature, room);
    pthread_mutex_lock(&device);
    nanosleep(&service, NULL);
    CK_RV rv = real->C_Sign(session, data, size, signature, room);
    pthread_mutex_unlock(&device);
    return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    if (!real) {
        const char *path = getenv("SLOW_MODULE");
        void *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
        CK_RV (*get)(CK_FUNCTION_LIST **) = module ? (CK_RV(*)(CK_FUNCTION_LIST **))dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != CKR_OK)
            return CKR_GENERAL_ERROR;
        slow = *real;
        slow.C_Sign = slow_sign;
    }
    *list = &slow;
    return CKR_OK;
}
